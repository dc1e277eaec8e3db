"""Data sets: read images and masks from disk, check them, and load them as tensors."""

from kanseg.data.blue_marble import prepare_blue_marble
from kanseg.data.checks import Report, check_data, check_samples
from kanseg.data.classification.augmentation import ImageAugmentation, Mixer
from kanseg.data.classification.dataset import ClassificationDataset, ImageSet, open_images
from kanseg.data.classification.formats import FORMATS
from kanseg.data.classification.sources import ImageSource
from kanseg.data.convert import convert
from kanseg.data.dataset import SegmentationDataset
from kanseg.data.formats.coco import read_coco
from kanseg.data.formats.folder import read_folder
from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.voc import read_voc
from kanseg.data.io.images import read_image, write_png
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.opening import open_data
from kanseg.data.preprocess import Preprocess
from kanseg.data.sample import Sample, read_sample_image
from kanseg.data.statistics import channel_statistics, class_frequencies
from kanseg.data.transforms import Augmentation

__all__ = [
    "FORMATS",
    "IGNORE_INDEX",
    "Augmentation",
    "ClassificationDataset",
    "DatasetIndex",
    "ImageAugmentation",
    "ImageSet",
    "ImageSource",
    "LabelSpec",
    "Mixer",
    "Preprocess",
    "Report",
    "Sample",
    "SegmentationDataset",
    "channel_statistics",
    "check_data",
    "check_samples",
    "class_frequencies",
    "convert",
    "open_data",
    "open_images",
    "prepare_blue_marble",
    "read_coco",
    "read_folder",
    "read_image",
    "read_label",
    "read_sample_image",
    "read_voc",
    "write_png",
]
