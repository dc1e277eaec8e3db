"""Our encoders in segmentation_models.pytorch (`smp`), timm (`timm`) and torchvision
(`torchvision`).

Importing one of the first two registers all encoders there. Nothing here is imported by `import
kanseg`.
"""
