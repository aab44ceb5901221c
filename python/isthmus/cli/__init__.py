"""The command ``isthmus``. It is a face: everything it does goes through the public package."""

from isthmus.cli._main import main

__all__ = ["main"]
