"""File locks between processes, which end with the process that holds them: the one place that says what becomes of a
file system without locks."""

import errno
from typing import Any

import filelock
from filelock import Timeout

__all__ = ["FileLock", "NoLocks", "Timeout"]

NO_LOCK_ERRNOS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class NoLocks(OSError):
    """The file system has no locks, as NFS without its lock daemon."""


class FileLock(filelock.FileLock):
    """A lock on a file, reentrant for its holder. Where `flock` is missing (ENOSYS) `filelock` locks by a marker file;
    every other lack of locks is NoLocks: a marker file beside locks that only failed for once would lock nobody out.
    """

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        """Wait for the lock. Raises Timeout while another process holds it, NoLocks, and OSError where the file can't
        be written."""
        try:
            return super().acquire(*arguments, **options)
        except NotImplementedError as error:
            raise NoLocks(errno.ENOLCK, f"its file system has no locks ({error})") from error
        except OSError as error:
            if error.errno not in NO_LOCK_ERRNOS:
                raise
            raise NoLocks(errno.ENOLCK, f"its file system has no locks ({error.strerror})") from error
