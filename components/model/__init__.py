"""The transformer: trunk, prediction heads, config, weights in and out. Imports torch and safetensors alone.

`config` needs the standard library only, so that a plan can count parameters without importing torch.
"""
