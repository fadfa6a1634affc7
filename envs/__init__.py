"""MetaWorld as Gymnasium environments. Importing this package registers the ids fdp/reach-v3, fdp/push-v3, ..."""

from envs.metaworld import register_all

register_all()
