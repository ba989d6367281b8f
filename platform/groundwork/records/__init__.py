"""One frozen row type per file, each with its Arrow schema: what the stages hand to each other on storage."""

from groundwork.records.caption import Caption
from groundwork.records.clip import Clip
from groundwork.records.decision import Decision
from groundwork.records.duplicate import Duplicate
from groundwork.records.latent import BUCKET_FOLDER, Latent
from groundwork.records.media_file import MediaFile
from groundwork.records.rejected import Rejected
from groundwork.records.row import Row, from_table, to_table
from groundwork.records.text import Text, text_id
from groundwork.records.video import Video

__all__ = [
    "BUCKET_FOLDER",
    "Caption",
    "Clip",
    "Decision",
    "Duplicate",
    "Latent",
    "MediaFile",
    "Rejected",
    "Row",
    "Text",
    "Video",
    "from_table",
    "text_id",
    "to_table",
]
