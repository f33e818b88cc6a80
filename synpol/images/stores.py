"""Where chunked images of other formats lie: in a folder, or at an https, gs or s3 URL.

tensorstore reads them; it takes a tenth of a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from synpol.errors import InputError
from synpol.files import is_url

if TYPE_CHECKING:
    import tensorstore

#: attempts where a server does not answer: a quarter of a minute in a job, two seconds at first
_RETRIES = {"max_retries": 6, "initial_delay": "250ms", "max_delay": "8s"}
_FIRST_RETRIES = {**_RETRIES, "max_retries": 3}
#: public addresses of buckets of Google, which ask for no credentials
_PUBLIC = "https://storage.googleapis.com"
#: URLs that are understood, for messages
KNOWN = "https://, http://, gs://, s3:// and file://"
#: variables of the environment that name an S3 server other than Amazon's, and its region
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


#: words by which libraries say that something may not be read, or that nobody answers
_DENIED = (
    "permission",
    "unauthenticated",
    "unauthorized",
    "credential",
    "forbidden",
    "denied",
    "403,",
    "401,",
)
_SILENT = (
    "unavailable",
    "resolve",
    "timed out",
    "timeout",
    "connect",
    "name or service",
    "retry attempts failed",
)
#: packages that speak with servers, whose errors are those of servers and of the way to them
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "requests", "urllib3")
_ERROR_OF_CLIENT = re.compile(rf"^(?:{'|'.join(_CLIENTS)})\.[\w.]+: (.+)", re.MULTILINE)
#: answers of a server that say something, instead of failing
_ANSWERS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
#: HTTP: the server waited too long for the request, and too many requests
_LATER = (408, 429)
#: where details begin in a message of tensorstore
_DETAILS = re.compile(r" \[(?:HTTP|http_|curl_code|source|method|grpc)")
_PACKAGE = re.compile(r"install [`'\"]?(gcsfs|s3fs|aiohttp|requests)")


class Store:
    """A folder or URL whose files are read by name.

    Parameters
    ----------
    path : str
        Folder or URL, without the scheme of a format.
    anonymous : bool
        Whether no credentials are used.

    Raises
    ------
    InputError
        A URL of a kind that is not known.
    """

    def __init__(self, path: str, anonymous: bool = False) -> None:
        import tensorstore

        self.path = path.rstrip("/")
        self.anonymous = anonymous
        self.spec = _spec_of(self.path, anonymous)
        self.context, at_first = (
            tensorstore.Context(
                {f"{kind}_request_retries": retries for kind in ("http", "gcs", "s3")}
            )
            for retries in (_RETRIES, _FIRST_RETRIES)
        )
        with reading(self.path, anonymous):
            self.files = tensorstore.KvStore.open(self.spec, context=self.context).result()
            self._first_files = tensorstore.KvStore.open(self.spec, context=at_first).result()

    def spec_of(self, name: str) -> dict[str, Any]:
        """Describe a folder in it to tensorstore."""
        return {**self.spec, "path": f"{self.spec['path']}{name.strip('/')}/"}

    def read(self, name: str) -> bytes | None:
        """Read a file; None where it does not exist.

        Raises
        ------
        InputError
            The server refuses, or does not answer.
        """
        with reading(f"{self.path}/{name}", self.anonymous):
            found = self._first_files.read(name).result()
        return found.value if found.state == "value" else None

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises
        ------
        InputError
            It cannot be written.
        """
        with reading(f"{self.path}/{name}", self.anonymous):
            self.files.write(name, content).result()

    def clear(self) -> None:
        """Remove all files."""
        import tensorstore

        with reading(self.path, self.anonymous):
            self.files.delete_range(tensorstore.KvStore.KeyRange()).result()

    def open(self, driver: str, **more: Any) -> tensorstore.TensorStore:
        """Open the array that lies here.

        Parameters
        ----------
        driver : str
            Name of its format.
        **more
            Further members of the specification.

        Raises
        ------
        InputError
            The metadata or the server are at fault.
        """
        import tensorstore

        spec = {"driver": driver, "kvstore": self.spec, **more}
        with reading(self.path, self.anonymous):
            return tensorstore.open(spec, context=self.context, read=True, open=True).result()


def _spec_of(path: str, anonymous: bool) -> dict[str, Any]:
    """Describe to tensorstore where a folder lies."""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    if not is_url(path):
        return {"driver": "file", "path": f"{Path(path).resolve()}/"}
    url = urlsplit(path)
    inner = f"{url.path.strip('/')}/".removeprefix("/")
    if url.scheme in ("http", "https"):
        base = f"{url.scheme}://{url.netloc}" + (f"?{url.query}" if url.query else "")
        return {"driver": "http", "base_url": base, "path": f"/{inner}"}
    if url.scheme == "gs" and anonymous:  # the public interface of a bucket asks for nothing
        base = f"{_PUBLIC}/{url.netloc}"
        return {"driver": "http", "base_url": base, "path": inner}
    if url.scheme == "gs":
        return {"driver": "gcs", "bucket": url.netloc, "path": inner}
    if url.scheme == "s3":
        spec: dict[str, Any] = {"driver": "s3", "bucket": url.netloc, "path": inner}
        for key, names in (("endpoint", _ENDPOINTS), ("aws_region", _REGIONS)):
            said = next((os.environ[name] for name in names if os.environ.get(name)), None)
            if said:
                spec[key] = said
        if anonymous:
            spec["aws_credentials"] = {"type": "anonymous"}
        return spec
    raise InputError(f"{path}: URLs of this kind are not known; use one of {KNOWN}")


def for_zarr(path: str, anonymous: bool) -> tuple[str, dict[str, Any] | None]:
    """The URL under which zarr reads a URL, and its options for the storage.

    Parameters
    ----------
    path : str
        Path or URL.
    anonymous : bool
        Whether no credentials are used.
    """
    if anonymous and path.startswith("gs://"):
        return f"{_PUBLIC}/{path.removeprefix('gs://')}", None
    return path, {"anon": True} if anonymous and path.startswith("s3://") else None


class reading:
    """Turn what tensorstore raises about a path into an InputError that says how to go on."""

    def __init__(self, path: str, anonymous: bool) -> None:
        self.path, self.anonymous = path, anonymous

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError) or not isinstance(error, ValueError | OSError | KeyError):
            return
        raise InputError(fault_of(self.path, str(error), self.anonymous)) from None


def is_outage(error: BaseException) -> bool:
    """Whether an error at a URL is a server that fails, and not its answer that nothing is there.

    Parameters
    ----------
    error : exception
        Whatever a library raised.
    """
    status = getattr(error, "status", None)
    if isinstance(error, _ANSWERS):
        return False
    if isinstance(status, int) and 400 <= status < 500 and status not in _LATER:
        return False
    return isinstance(error, OSError) or is_of_client(error)


def is_of_client(error: BaseException) -> bool:
    """Whether an error is of a connection, or of a package that speaks with servers."""
    package = type(error).__module__.partition(".")[0]
    return package in _CLIENTS or isinstance(error, TimeoutError | ConnectionError)


def outage_in(trace: str) -> str | None:
    """Say what a server, or the way to it, did wrong; None where a traceback is of another fault.

    Parameters
    ----------
    trace : str
        Text of a traceback, of this process or of a worker.
    """
    found = _ERROR_OF_CLIENT.search(trace)
    if found is None:
        return None
    return (
        f"a server fails or refuses ({found[1].strip()[:300]}); what is done is kept: see that it "
        "answers, and run the same command again"
    )


def fault_of(path: str, said: str, anonymous: bool, outage: bool = False) -> str:
    """Say what is wrong with a place that cannot be read, and how to go on.

    Parameters
    ----------
    path : str
        Path or URL.
    said : str
        Message of a library.
    anonymous : bool
        Whether no credentials were used.
    outage : bool
        Whether the server failed; otherwise its message tells.
    """
    reason = _DETAILS.split(said)[0].strip().rstrip(".") or "no reason was given"
    text = said.lower()
    if (found := _PACKAGE.search(text)) is not None:
        way = ", or, if it is public, say `anonymous: true`" if path.startswith("gs://") else ""
        return f"{path} is read with the package {found[1]}: pip install {found[1]}{way}"
    if is_url(path) and any(word in text for word in _DENIED):
        way = "if it is public, say `anonymous: true` beside its `path`; else give credentials: "
        if anonymous:
            way = "it is not public: leave `anonymous` out, and give credentials: "
        if path.startswith("s3://"):
            way += "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        elif path.startswith("gs://"):
            way += "GOOGLE_APPLICATION_CREDENTIALS"
        else:
            way = "give a URL that everybody may read, or copy it"
        return f"{path} may not be read ({reason}); {way}"
    if is_url(path) and (outage or any(word in text for word in _SILENT)):
        return (
            f"{path} does not answer ({reason}); check the address and the connection, and run the "
            "same command again"
        )
    return f"{path} cannot be read: {reason}. Correct it, or copy it anew"
