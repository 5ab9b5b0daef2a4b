"""An exported folder on the Hugging Face Hub, or a server that speaks as it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ..disk.files import FormatError
from .digests import CONFIG
from .model import read_config

_MENDS = {
    401: "give a token that is valid there, token=..., or log in with `hf auth login`",
    403: "give a token that may write there, or another repository",
}


def push_to_hub(
    folder: str | Path,
    repo: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload an exported folder, whose files are checked first as `sc.load` does it; the address of the repository.

    What the export wrote goes there in one commit, the card with what you added to it; other files of the folder stay
    here. A repository that is not there yet is made.

    Args:
        folder: an exported folder.
        repo: `"name"`, of the user that the token belongs to, or `"owner/name"`.
        token: that may write there; None takes the one that `hf auth login` or `HF_TOKEN` left. It is never shown.
        private: whether only its owner sees a repository that is made; None leaves that to the owner's settings.
        endpoint: address of the server; the Hub, or `HF_ENDPOINT`, when None.

    Raises:
        ImportError: huggingface_hub is not installed; the extra `hub` brings it.
        FileNotFoundError: no such folder, or a file of the export is missing.
        FormatError: the folder is no export, or was changed since.
        ValueError: `repo` or `token` is no name or token, or the repository is there and not as `private` says.
        OSError: the server refuses, or cannot be reached.
    """
    try:
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ImportError("huggingface_hub is not installed: pip install 'secateur[hub]'") from error
    if token is not None and not (isinstance(token, str) and token.isascii() and token.isprintable() and token.split()):
        raise ValueError("token is empty, or has a line break or a letter that no token has; copy it once more")
    if not isinstance(repo, str) or not repo:
        raise ValueError(f"repo is {repo!r}; expected 'name' or 'owner/name'")
    folder = Path(folder)
    names = _files(folder, read_config(folder))
    try:
        api = HfApi(endpoint, token, library_name="secateur", library_version=__version__)
        made = api.create_repo(repo, private=private, exist_ok=True)
        wrong = private is not None and api.model_info(made.repo_id).private is not private
        if not wrong:
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                allow_patterns=names,
                commit_message="A network pruned by secateur",
            )
    except HFValidationError as error:
        raise ValueError(f"repo is {repo!r}; expected 'name' or 'owner/name' ({_line(error)})") from None
    except Exception as error:  # of the package, its transport and the server, which have no class in common
        secret = token or get_token()
        said = _line(error).replace(secret, "***") if secret else _line(error)
        mend = _MENDS.get(getattr(getattr(error, "response", None), "status_code", 0), "try again, or look at its logs")
        # Not `from error`: what the server answers may hold the token, and a traceback would show it.
        raise OSError(f"{endpoint or constants.ENDPOINT} did not take {repo} ({said}); {mend}") from None
    if wrong:
        kind = "public" if private else "private"
        raise ValueError(f"{made.repo_id} is there already and is {kind}; nothing was uploaded: change it, or private=")
    return str(made)


def _files(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The names of what an export wrote, all of them there."""
    known = config.get("files")
    if not isinstance(known, dict):
        raise FormatError(f"{folder} is of an older secateur, which kept no digests; export again to upload it")
    names = sorted({*known, CONFIG})
    if missing := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; restore it from a copy, or export again")
    return names


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
