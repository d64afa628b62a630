"""Data: images that come with installed packages or lie in a folder, tables of a user's own.

Nothing is downloaded.
"""

from .images import Dataset, cifar, digits, mnist
from .table import read_table

__all__ = ["Dataset", "cifar", "digits", "mnist", "read_table"]
