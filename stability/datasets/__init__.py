"""Data: images that come with installed packages or lie in a folder, tables of a user's own.

Nothing is downloaded.
"""

from .images import Dataset, cifar, digits, mnist

__all__ = ["Dataset", "cifar", "digits", "mnist"]
