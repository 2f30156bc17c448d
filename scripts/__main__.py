"""``python -m queuescope.scripts`` is the command ``queuescope``."""

from .cli import main

main()
