"""A trained network -> a file that runs without kanseg: ONNX or torch.export, checked before it is
called good.
"""

from kanseg.export.run import Report, Request, export_checkpoint

__all__ = ["Report", "Request", "export_checkpoint"]
