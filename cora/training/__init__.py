"""Training: losses, the Lightning module of a stage, the trainer that runs the stages, and tiny pretrained towers."""
