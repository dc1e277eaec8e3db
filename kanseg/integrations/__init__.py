"""Our encoders in segmentation_models.pytorch (`smp`), timm (`timm`) and torchvision
(`torchvision`), and prediction by actors of Ray (`ray`).

Importing one of the first two registers all encoders there. Nothing here is imported by `import
kanseg`.
"""
