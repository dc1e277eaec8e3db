"""Export a trained network to a file that runs without kanseg: ONNX or torch.export. The file is
verified against the PyTorch model before it is saved.
"""

from kanseg.export.run import Report, Request, export_checkpoint

__all__ = ["Report", "Request", "export_checkpoint"]
