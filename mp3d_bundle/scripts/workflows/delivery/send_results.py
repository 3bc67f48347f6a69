"""Send DICOM results to a server of the user: C-STORE to an archive, or STOW-RS to a DICOMweb server.

The packages for it, pynetdicom and dicomweb-client, are no dependencies of the bundle.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ...storage.result_files import DICOM_OUTPUTS, OUTPUTS

logger = logging.getLogger(__name__)

OUR_TITLE = "MP3D"
_ARCHIVE = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>[^@/\s]+):(?P<port>\d{1,5})")
_WEB = re.compile(r"https?://(?:[^/@\s]*@)?(?P<host>[^/@\s]+)(?:/\S*)?")
_SECONDS = 60
# The same file is there from an earlier time: sent again, it has the same UID and content.
_DUPLICATE = 0x0111
# Stored, or stored with a warning (PS3.4, B.2.3).
_STORED = (0x0000, 0xB000, 0xB006, 0xB007, _DUPLICATE)
# What DICOMweb servers answer, and the tag FailedSOPSequence in it.
_ANSWERS = ("application/dicom+json", "application/json", "application/dicom+xml", "application/xml")
_FAILED = b"00081198"
_ACCEPTED, _CONFLICT = 202, 409


@dataclass(frozen=True)
class Sender:
    """Sends the DICOM files of a folder.

    Attributes:
        address: ``TITLE@HOST:PORT`` of an archive, or the URL of a DICOMweb server.

    Raises:
        ValueError: If it is neither.
        ImportError: If the package for it is not installed.
    """

    address: str

    def __post_init__(self) -> None:
        """Check the address and the package, before hours of work."""
        archive = _ARCHIVE.fullmatch(self.address)
        if not _WEB.fullmatch(self.address) and not (archive and 0 < int(archive["port"]) < 1 << 16):
            raise ValueError(
                f"Expected TITLE@HOST:PORT or the http(s) URL of a DICOMweb server as send, got {self.address!r}."
            )
        module, name = ("pynetdicom", "pynetdicom") if archive else ("dicomweb_client", "dicomweb-client")
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"Expected the package {name} for --send, which is not installed: pip install {name}.")

    @property
    def server(self) -> str:
        """The server without user and password, for messages."""
        found = _ARCHIVE.fullmatch(self.address) or _WEB.fullmatch(self.address)
        return found["host"] if found else self.address

    def __call__(self, folder: Path) -> int:
        """Send the files.

        Args:
            folder: Folder of the results of a scan.

        Returns:
            How many; 0 where there are none, which is logged.

        Raises:
            OSError: If the server cannot be reached, or does not take one; the results stay where they are.
        """
        names = [name for output in DICOM_OUTPUTS for name in OUTPUTS[output].files]
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            logger.warning("%s: nothing to send, as there are no DICOM results.", folder)
            return 0
        datasets = {path.name: pydicom.dcmread(path) for path in files}
        for dataset in datasets.values():
            # What every server takes; a deflated file was inflated when it was read.
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        try:
            refused = (self._store if _ARCHIVE.fullmatch(self.address) else self._post)(datasets)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).replace(self.address, self.server).rstrip(".")
            refused = dict.fromkeys(datasets, reason)
        taken = [name for name in datasets if name not in refused]
        if taken:
            logger.info("%s: sent %s to %s.", folder, ", ".join(taken), self.server)
        if refused:
            reasons = "; ".join(dict.fromkeys(refused.values()))
            raise OSError(
                f"Could not send {', '.join(refused)} of {folder} to {self.server}: {reasons}. The results are "
                "written; the same command sends them again."
            )
        return len(files)

    def _store(self, datasets: Mapping[str, pydicom.Dataset]) -> dict[str, str]:
        """Send by C-STORE; why each file that was not stored was not."""
        network: Any = importlib.import_module("pynetdicom")
        parts = _ARCHIVE.fullmatch(self.address)
        if parts is None:
            raise ValueError(f"{self.address} is not TITLE@HOST:PORT")
        entity = network.AE(ae_title=OUR_TITLE)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _SECONDS
        for dataset in datasets.values():
            entity.add_requested_context(dataset.SOPClassUID, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        link = entity.associate(parts["host"], int(parts["port"]), ae_title=parts["title"])
        if not link.is_established:
            raise OSError(f"no association as {parts['title']}")
        refused = {}
        try:
            for name, dataset in datasets.items():
                try:
                    code = link.send_c_store(dataset).get("Status")
                except (RuntimeError, ValueError) as error:
                    refused[name] = str(error).rstrip(".")
                    continue
                if code not in _STORED:
                    answer = "no answer" if code is None else f"status {code:04X}"
                    refused[name] = f"{answer} for {dataset.SOPClassUID.name}"
        finally:
            link.release()
        return refused

    def _post(self, datasets: Mapping[str, pydicom.Dataset]) -> dict[str, str]:
        """Send by STOW-RS; why each file that was not stored was not."""
        parts = urlsplit(self.address)
        user = importlib.import_module("dicomweb_client.session_utils").create_session_from_user_pass
        client: Any = importlib.import_module("dicomweb_client.web").DICOMwebClient(
            # With a user in the URL the client would call the server by the user's name.
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/"),
            session=user(unquote(parts.username), unquote(parts.password or "")) if parts.username else None,
            callback=_check_answer,
            timeout=_SECONDS,
        )
        client.set_http_retry_params(retry=False)
        answer = client.store_instances(list(datasets.values()))
        stored = {one.get("ReferencedSOPInstanceUID") for one in answer.get("ReferencedSOPSequence") or ()}
        failed = {
            one.get("ReferencedSOPInstanceUID"): one.get("FailureReason")
            for one in answer.get("FailedSOPSequence") or ()
        }
        refused = {}
        for name, dataset in datasets.items():
            uid = dataset.SOPInstanceUID
            if uid in stored or not (stored or failed) or failed.get(uid) == _DUPLICATE:
                continue
            code = failed.get(uid)
            reason = "it is not among the stored ones in the answer" if code is None else f"reason {code:04X}"
            refused[name] = f"{reason} for {dataset.SOPClassUID.name}"
        return refused


def _check_answer(response: Any, **_: Any) -> Any:
    """Reject an answer to STOW-RS that says nothing of what was stored, and make the client read the others.

    It knows media types without parameters only, and drops the reasons that come with 409 (PS3.18, 10.5.3).

    Raises:
        OSError: If a page of a proxy, or of another address, came in the place of an answer.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    response.headers["Content-Type"] = kind
    if response.status_code in (301, 302, 303):
        raise OSError(f"it redirects to {response.headers.get('Location')}")
    if response.status_code == _CONFLICT and kind in _ANSWERS and _FAILED in response.content:
        response.status_code = _ACCEPTED
    if response.ok and response.content and kind not in _ANSWERS:
        raise OSError(f"expected an answer in JSON or XML, got {kind or 'no media type'}")
    return response
