"""Whether an HDF5 dataset leads out of the directories that may be read.

It can: by a symbolic link, an external link, a virtual dataset, raw data kept in another
file. All that it is read from must lie under the roots.
"""

import h5py

from p06bs.bus.leads import LeadsCheck, UnboundedError
from p06bs.server.files.roots import FileRoots, OutsideError


class DatasetCheck:
    """Make sure that all that an open dataset is read from lies under the roots.

    Parameters
    ----------
    roots : FileRoots
    """

    def __init__(self, roots: FileRoots) -> None:
        self._check = LeadsCheck(roots.check)

    def __call__(self, dataset: h5py.Dataset) -> None:
        """Check.

        Raises
        ------
        OutsideError
            If some of it does not, or that cannot be listed.
        NoDataError
            If some of it is no regular file.
        OSError
            If that cannot be found out.
        """
        try:
            self._check(dataset)
        except UnboundedError as error:
            raise OutsideError(str(error)) from None
