"""Experiments on deep linear networks: does SGD walk the golden path of gradient descent?

`import dln_nb as dln` offers the names below; each is imported when it is first used, so that
the import itself takes no time. `__init__.pyi` says where each of them lives.
"""
import lazy_loader as _lazy

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
