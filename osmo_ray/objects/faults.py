"""Errors of remote stores as the protocol's: absent, taken, permanent, or worth another try.

Each client library has its own errors. What they share is an HTTP status somewhere; where there is none, the kind of
error decides, and what is unknown counts as passing, since giving up is what cannot be taken back.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError

_PASSING = frozenset({408, 409, 423, 425, 429})
_PERMANENT_ERRNO = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSYS, errno.EMSGSIZE, errno.EISDIR}
)
_PERMANENT_NAMES = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidEndpointURLError"),
        *("ParamValidationError", "ClientAuthenticationError", "CredentialUnavailableError", "RefreshError"),
    }
)


@contextmanager
def translated(key: str, *, writing: bool = False, creating: bool = False) -> Iterator[None]:
    """Whatever is raised inside becomes an `ObjectError` about `key`."""
    try:
        yield
    except ObjectError:
        raise
    except FileNotFoundError as error:
        if writing:  # a key need not exist to be written: it is the bucket that is missing
            raise ObjectError(f"cannot write {key}: {_told(error)}; does the bucket exist?", permanent=True) from error
        raise NoSuchObject(key) from error
    except Exception as error:
        if creating and (isinstance(error, FileExistsError) or status(error) == 412):
            raise AlreadyExists(key) from error
        raise ObjectError(f"{key}: {_told(error)}", permanent=_permanent(error)) from error


def status(error: BaseException) -> int:
    """The HTTP status behind an error, 0 if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):  # botocore
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        told = not type(seen).__module__.startswith(
            "aiohttp.http_exceptions"
        )  # those say 400 of an answer that was cut
        for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
            value = getattr(seen, name, None) if told else None
            if isinstance(value, int):
                return value
        seen = seen.__cause__
    return 0


def _permanent(error: Exception) -> bool:
    if code := status(error):
        return 400 <= code < 500 and code not in _PASSING
    if isinstance(error, PermissionError | ValueError | TypeError | ImportError):
        return True
    if isinstance(error, OSError) and error.errno in _PERMANENT_ERRNO:
        return True
    return any(kind.__name__ in _PERMANENT_NAMES for kind in type(error).__mro__)


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
