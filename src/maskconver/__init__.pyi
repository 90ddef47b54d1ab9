from . import data as data
from .categories import Categories as Categories
from .categories import Category as Category
from .checkpoint import load as load
from .checkpoint import save as save
from .errors import MaskconverError as MaskconverError
from .merge import merge as merge
from .metrics import PanopticQuality as PanopticQuality
from .models import create_model as create_model
from .models import list_models as list_models
from .predictor import Predictor as Predictor
from .proposals import Geometry as Geometry
from .proposals import Proposals as Proposals
from .segmentation import Segment as Segment
from .segmentation import Segmentation as Segmentation

__version__: str
