from . import data as data
from .core.categories import Categories as Categories
from .core.categories import Category as Category
from .core.proposals import Geometry as Geometry
from .core.proposals import Proposals as Proposals
from .core.segmentation import Segmentation as Segmentation
from .core.segments import Segment as Segment
from .errors import MaskconverError as MaskconverError
from .export.driver import export_model as export_model
from .inference.predictor import Predictor as Predictor
from .merge import postprocess as postprocess
from .metrics import PanopticQuality as PanopticQuality
from .models import create_model as create_model
from .models import list_models as list_models
from .models.checkpoint import load as load
from .models.checkpoint import save as save
from .models.share import push_to_hub as push_to_hub
from .models.share import save_pretrained as save_pretrained

__version__: str
