"""MetaWorld as Gymnasium environments. Importing this package registers the ids fdp/reach-v3, fdp/push-v3, ..."""

from envs import metaworld, pixels, two_ways

metaworld.register_all()
pixels.register_all()
two_ways.register_all()
