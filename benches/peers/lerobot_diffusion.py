"""LeRobot's diffusion policy, and nothing of its other policies.

Importing `lerobot.policies` imports every policy and what each of them needs. An empty package of that name and place,
registered beforehand, lets one policy be imported alone.
"""

import importlib.util
import os
import sys
import types

os.environ.setdefault("HF_HUB_OFFLINE", "1")

policies = types.ModuleType("lerobot.policies")
policies.__path__ = [os.path.join(root, "policies") for root in importlib.util.find_spec("lerobot").submodule_search_locations]
sys.modules.setdefault(policies.__name__, policies)

from lerobot.configs.types import FeatureType, PolicyFeature  # noqa: E402, F401
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # noqa: E402, F401
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy  # noqa: E402, F401
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors  # noqa: E402, F401
from lerobot.processor import PolicyProcessorPipeline  # noqa: E402, F401
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action  # noqa: E402, F401
