"""MetaWorld as Gymnasium environments. Importing this package registers the ids fdp/reach-v3, fdp/push-v3, ..."""

from plumbing import opengl

opengl.check_import()
from envs import metaworld, pixels, two_ways  # noqa: E402

metaworld.register_all()
pixels.register_all()
two_ways.register_all()
