"""Media: probe, decode, geometry and writing of videos and images of any shape. Imports neither torch nor ray."""

from media.errors import MediaError
from media.geometry import Geometry
from media.picture import Picture
from media.probe import Probe, probe
from media.reader import Frame, VideoReader

__all__ = ["Frame", "Geometry", "MediaError", "Picture", "Probe", "VideoReader", "probe"]
