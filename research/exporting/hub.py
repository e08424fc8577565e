"""Uploads an exported folder to the Hugging Face Hub."""

import re
from pathlib import Path

from research.common.errors import UserError


def check_push(target: str) -> str:
    """Checks that a folder can be pushed, before it is exported.

    Args:
      target: "hf:OWNER/NAME".

    Returns:
      The repository, "OWNER/NAME".

    Raises:
      UserError: the target is invalid, or huggingface_hub or a token is missing.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)", target)
    if match is None:
        raise UserError(f"invalid target '{target}': expected hf:OWNER/NAME")
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise UserError(f'cannot push to {target}: {error}; `pip install -e ".[hub]"`') from None
    if not get_token():
        raise UserError(f"cannot push to {target}: missing token; `hf auth login`, or set HF_TOKEN")
    return match[1]


def push(folder: Path, repository: str) -> str:
    """Uploads the files of a folder to a repository; a new repository is private.

    Returns:
      The repository's address.

    Raises:
      UserError: the upload fails; the folder remains.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export a run")
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        remedy = f"`hf upload {repository} {folder}` tries again"
        raise UserError(f"cannot push to hf:{repository}: {reason}; {remedy}") from None
    return str(address)
