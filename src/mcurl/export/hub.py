"""Uploading an exported policy to the Hugging Face hub. ``huggingface_hub`` is imported only for that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mcurl.errors import UserError

_NAME = r"[A-Za-z0-9][\w.-]*"


class Hub:
    """The hub, as the user who is logged in on this machine.

    Args:
        repository: ``USER/NAME`` of a new model repository.

    Raises:
        UserError: the name is no such name, ``huggingface_hub`` is not installed, or nobody is logged in.
    """

    def __init__(self, repository: str) -> None:
        if not re.fullmatch(f"{_NAME}/{_NAME}", repository):
            raise UserError(f"--push takes USER/NAME, not {repository!r}")
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise UserError(f"--push needs huggingface_hub ({error}): pip install 'mcurl[hub]'") from error
        self.repository = repository
        self._api: Any = HfApi()
        try:
            self._api.whoami()
        except Exception as error:  # its classes differ between versions of the library
            raise UserError(f"--push needs a login ({_one_line(error)}): hf auth login") from error

    def push(self, folder: Path, private: bool) -> str:
        """Upload a folder to the new repository.

        Args:
            folder: an exported policy.
            private: whether only the user sees it.

        Returns:
            The address of the repository.

        Raises:
            UserError: the repository exists already, or the upload fails. The folder stays.
        """
        again = f"the folder {folder} stays; to upload it yourself: hf upload {self.repository} {folder}"
        try:
            self._api.create_repo(self.repository, repo_type="model", private=private, exist_ok=False)
            self._api.upload_folder(
                repo_id=self.repository, repo_type="model", folder_path=str(folder), commit_message="Policy from mcurl"
            )
        except Exception as error:
            raise UserError(f"the upload failed ({_one_line(error)}): {again}") from error
        return f"https://huggingface.co/{self.repository}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
