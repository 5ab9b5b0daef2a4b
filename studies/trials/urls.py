"""URLs of storages: which there are, and what of them may be written down or shown. A password never is.

sqlite:////data/study.db            a file
journal:study.journal               a file on a network file system; a relative path starts in the study's folder
postgresql://user@host/database     a server; so is mysql://
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ..disk.secrets import SECRET

JOURNAL = "journal:"
SERVERS = ("postgresql", "mysql", "mariadb")

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_DRIVERS |= {"mariadb": "mariadb+pymysql"}
_EXPECTED = (
    "expected a storage URL such as 'sqlite:////data/study.db', 'journal:study.journal' or "
    "'postgresql://user@host/database'"
)


def is_journal(url: str) -> bool:
    """Whether the URL is of a journal file."""
    return url.startswith(JOURNAL)


def is_server(url: str) -> bool:
    """Whether the URL is of a database server, which several machines can write to at once."""
    return not is_journal(url) and parsed(url).get_backend_name() in SERVERS


def journal_path(url: str, folder: Path | None = None) -> Path:
    """The file of a journal URL.

    Args:
        url: `journal:PATH` or `journal:///PATH`.
        folder: where a relative path starts; the working directory when None.

    Raises:
        ValueError: there is no path in it.
    """
    path = url.removeprefix(JOURNAL)
    path = path[2:] if path.startswith("///") else path
    if not path or path.startswith("//"):
        raise ValueError(f"storage={url!r}: expected 'journal:PATH', such as 'journal:study.journal'")
    return (Path.cwd() if folder is None else folder).absolute() / Path(path).expanduser()


def file_of(url: str, folder: Path | None = None) -> Path | None:
    """The file behind a URL; None where a server is."""
    if is_journal(url):
        return journal_path(url, folder)
    found = parsed(url)
    if found.get_backend_name() != "sqlite" or not found.database or found.database == ":memory:":
        return None
    return Path(found.database).absolute()


def parsed(url: str) -> URL:
    """The parts of a database URL, with the driver that secateur installs where it names none.

    Raises:
        ValueError: it is none; the text is not shown, because a password may be in it.
    """
    try:
        found = make_url(url)
        found.get_backend_name()
    except (ArgumentError, ValueError, AttributeError):
        raise ValueError(f"the storage given is no URL; {_EXPECTED}") from None
    if found.get_backend_name() == "sqlite" and found.database in (None, "", ":memory:"):
        raise ValueError(f"storage {url!r} names no file, and trials in memory are gone with the process; {_EXPECTED}")
    return found.set(drivername=_DRIVERS.get(found.drivername, found.drivername))


def without_password(url: str) -> str:
    """The URL as it may be written down and shown: with no password, wherever one stands.

    >>> without_password("postgresql://ann:secret@host/trials?password=secret&sslmode=require")
    'postgresql://ann@host/trials?sslmode=require'
    """
    if is_journal(url):
        return url
    parsed(url)
    found = make_url(url)
    secrets = [name for name in found.query if SECRET.fullmatch(name)]
    if found.password is None and not secrets:
        return url
    return found._replace(password=None).difference_update_query(secrets).render_as_string(hide_password=False)


def masked(text: str, url: str) -> str:
    """The text without the URL's passwords."""
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def completed(kept: str, given: str | None) -> str:
    """The URL to open a study with: the one it keeps, or the same with a password.

    Args:
        kept: without a password.
        given: by the user, now; None for none.

    Raises:
        ValueError: another one was given.
    """
    if given is None or is_journal(kept):
        if given is not None and given != kept:
            raise ValueError(f"the study's trials are kept in {kept}, not in the storage given; leave the storage out")
        return kept
    if is_journal(given) or without_password(given) != kept:
        raise ValueError(
            f"the study's trials are kept in {kept}, and the storage given is {without_password(given)}; give the same "
            "one, which may differ in its password only"
        )
    return given


def _secrets(url: str) -> Iterator[str]:
    if is_journal(url):
        return
    found = parsed(url)
    values = [found.password, *(value for name, value in found.query.items() if SECRET.fullmatch(name))]
    for value in values:
        for secret in [value] if isinstance(value, str) else value or ():
            yield from (one for one in (secret, quote(secret, safe=""), quote_plus(secret)) if one)
