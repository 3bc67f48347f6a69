"""Send DICOM results to a server of the user: C-STORE to an archive, or STOW-RS to a DICOMweb server.

The packages for it, pynetdicom and dicomweb-client, are no dependencies of the bundle.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ...storage.result_files import DICOM_OUTPUTS, OUTPUTS

logger = logging.getLogger(__name__)

OUR_TITLE = "MP3D"
_ARCHIVE = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>[^@/\s]+):(?P<port>\d{1,5})")
_WEB = re.compile(r"https?://(?:[^/@\s]*@)?(?P<host>[^/@\s]+)(?:/\S*)?")
_SECONDS = 60
# Stored, or stored with a warning (PS3.4, B.2.3).
_STORED = (0x0000, 0xB000, 0xB006, 0xB007)


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
        datasets = [pydicom.dcmread(path) for path in files]
        for dataset in datasets:
            # What every server takes; a deflated file was inflated when it was read.
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        try:
            (self._store if _ARCHIVE.fullmatch(self.address) else self._post)(datasets)
        except (OSError, RuntimeError, ValueError) as error:
            # Libraries name the whole URL, with the password in it.
            reason = str(error).replace(self.address, self.server).rstrip(".")
            raise OSError(
                f"Could not send {', '.join(path.name for path in files)} of {folder} to {self.server}: {reason}. The "
                "results are written; the same command sends them again."
            ) from None
        logger.info("%s: sent %s to %s.", folder, ", ".join(path.name for path in files), self.server)
        return len(files)

    def _store(self, datasets: Sequence[pydicom.Dataset]) -> None:
        network: Any = importlib.import_module("pynetdicom")
        parts = _ARCHIVE.fullmatch(self.address)
        if parts is None:
            raise ValueError(f"{self.address} is not TITLE@HOST:PORT")
        entity = network.AE(ae_title=OUR_TITLE)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _SECONDS
        for dataset in datasets:
            entity.add_requested_context(dataset.SOPClassUID, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        link = entity.associate(parts["host"], int(parts["port"]), ae_title=parts["title"])
        if not link.is_established:
            raise OSError(f"no association as {parts['title']}")
        try:
            for dataset in datasets:
                status = link.send_c_store(dataset)
                if status.get("Status") not in _STORED:
                    code = f"status {status.Status:04X}" if "Status" in status else "no answer"
                    raise OSError(f"{code} for {dataset.SOPClassUID.name}")
        finally:
            link.release()

    def _post(self, datasets: Sequence[pydicom.Dataset]) -> None:
        client: Any = importlib.import_module("dicomweb_client.web").DICOMwebClient(self.address)
        client.set_http_retry_params(retry=False)
        answer = client.store_instances(list(datasets))
        failed = answer.get("FailedSOPSequence") or ()
        if failed:
            raise OSError(f"reason {failed[0].get('FailureReason', 'unknown')} for {len(failed)} of {len(datasets)}")
