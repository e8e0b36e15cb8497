"""A plugin for pytest: hypothesis tells the first failure as it found it. Nobody reads a hunt's."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.reuse, Phase.generate])
settings.load_profile("unshrunk")
