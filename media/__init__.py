"""Media: probe, decode, geometry and writing of videos and images of any shape. Imports neither torch nor
ray.
"""

from media.decode.geometry import Geometry
from media.decode.picture import Picture
from media.decode.probe import Probe, probe
from media.decode.reader import Frame, VideoReader
from media.errors import MediaError

__all__ = ["Frame", "Geometry", "MediaError", "Picture", "Probe", "VideoReader", "probe"]
