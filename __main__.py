"""python -m posegan: the same as posegan."""

from posegan.posegan import main

main()
