"""Models on the Hugging Face hub: publish a folder, fetch a portable file.

A model repository that `push` makes holds the portable file (weights, config, classes, terms), so that `hf:ORG/NAME`
alone is enough to load it, and beside it whatever else the folder has, such as transformers' files.
"""

from __future__ import annotations

import os
from pathlib import Path

from .reading import HUB_PREFIX

PORTABLE_FILE = "segcore.safetensors"


def push(
    folder: str | os.PathLike,
    name: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Upload of the model",
) -> str:
    """Upload a folder as a model repository; files of the same names there are replaced.

    Args:
        folder: has `PORTABLE_FILE` in it.
        name: ORG/NAME; made if it does not exist.
        private: of a repository that is made.
        token: of an account that may write there; None takes the one of `hf auth login`.
        message: of the commit.

    Returns:
        The address of the commit or repository.

    Raises:
        FileNotFoundError: if the portable file is not there.
        ValueError: for a name of another form.
        OSError: if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not (Path(folder) / PORTABLE_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {PORTABLE_FILE}, so hf:{name} could not be loaded")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"{name!r} is not of the form ORG/NAME")
    api = HfApi(token=token)
    try:
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model", commit_message=message)
    # ValueError: huggingface_hub's offline mode; OSError: no network.
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OSError(
            f"cannot upload to {name} on the Hugging Face hub: {reason}; check the name, the connection and that "
            "`hf auth login` was done with a token that may write"
        ) from error
    return str(done)


def fetch_portable(source: str) -> str:
    """The local path of the portable file of `hf:ORG/NAME[@REVISION]`.

    Raises:
        ValueError: if the repository has none: it then needs a config.
        OSError: if it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    try:
        return hf_hub_download(name, PORTABLE_FILE, revision=revision or None)
    except LocalEntryNotFoundError as error:  # first: it is also an EntryNotFoundError
        raise OSError(f"cannot fetch {name} from the Hugging Face hub, and it is not in the local cache") from error
    except EntryNotFoundError as error:
        raise ValueError(
            f"{source} does not hold its config ({PORTABLE_FILE}); give the config that its weights belong to "
            "(--config-file configs/...)"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"cannot fetch {name} from the Hugging Face hub: {reason}") from error
