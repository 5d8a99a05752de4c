"""Published image networks as the trunk of the image encoder: from a local folder, checked, frozen, with their licence.

A folder of ours holds `backbone.json` (`manifest.Backbone`) and `model.safetensors`; `convert.add` makes one from what
a publisher distributes. Nothing here reads a network, and no pickle is read but by `convert`, with `weights_only`.
"""
