"""Results as pandas frames and as labelled arrays; both libraries are loaded when first asked for."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import xarray


class Framed(abc.ABC):
    """A result that is a table: `to_frame`."""

    @abc.abstractmethod
    def _columns(self) -> Mapping[str, Any]:
        """Columns of equal length, by name."""

    def to_frame(self) -> pandas.DataFrame:
        """The result's table as a pandas frame: every row, nothing rounded."""
        import pandas

        return pandas.DataFrame(self._columns())


class Labelled(abc.ABC):
    """A result whose arrays have axes with names: `to_xarray`."""

    @abc.abstractmethod
    def _labels(self) -> Mapping[str, np.ndarray]:
        """Positions along the axes that have some, by the axis's name."""

    @abc.abstractmethod
    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        """Arrays by name, each with the names of its axes."""

    def to_xarray(self) -> xarray.Dataset:
        """The arrays with named axes, as an xarray dataset; needs the extra ``sweep``.

        Raises
        ------
        ValueError
            If xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise ValueError("`to_xarray` needs xarray: pip install 'sfn-stability[sweep]'.") from None
        about = {key: value for key, value in vars(self).items() if isinstance(value, (str, int, float))}
        # NetCDF has no truth values.
        about = {key: int(value) if isinstance(value, bool) else value for key, value in about.items()}
        return xarray.Dataset(dict(self._variables()), coords=dict(self._labels()), attrs=about)
