from . import explain as explain
from .data.images import as_images as as_images
from .estimators.classifier import DRMMClassifier as DRMMClassifier
from .estimators.few_labels import SemiSupervisedKFold as SemiSupervisedKFold
from .estimators.mixture import RenderingMixture as RenderingMixture
from .estimators.trees import EvolutionaryClassifier as EvolutionaryClassifier
from .learning.initialisation import initialise as initialise
from .learning.learned_prior import learn_prior as learn_prior
from .learning.objective import Objective as Objective
from .lifting.assembly import lift as lift
from .model import presets as presets
from .model.branching import branch_and_bound as branch_and_bound
from .model.deep import DRMM as DRMM
from .model.deep import Latents as Latents
from .model.patch_prior import borrow as borrow
from .model.robustness import robust_margin as robust_margin
from .model.traceback import sign_traceback as sign_traceback
from .predicting.predictor import Predictor as Predictor
from .pruning.prune import prune as prune
from .storage.models import load_model as load_model
from .storage.models import save_model as save_model

__version__: str
