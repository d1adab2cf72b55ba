"""Loads the U-Net that `clearway train` wrote into diffusers, and draws one picture of each class as Clearway does.

    python check_pictures.py models/fashion-mnist/model

With the same first noise, diffusers' network and its DDIM scheduler draw the pictures that `clearway eval pictures --sheets`
shows in its first row: it prints them as numbers from 0 to 255, one line a class, for a comparison by eye or by program.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

folder = Path(sys.argv[1])
form = json.loads((folder / "model_index.json").read_text())
unet = UNet2DConditionModel.from_pretrained(folder / "unet")
scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
classes = len(form["labels"])
patch, channels = form["patch_size"], form["channels"]
size = [form["height"] // patch, form["width"] // patch]
torch.manual_seed(0)
x = torch.randn(classes, channels * patch * patch, *size)
scheduler.set_timesteps(50)
scale = 2.0
with torch.no_grad():
    for t in scheduler.timesteps:
        labels = torch.cat([torch.full((classes,), classes), torch.arange(classes)])
        both = unet(torch.cat([x, x]), t, None, class_labels=labels).sample
        without, with_class = both.chunk(2)
        x = scheduler.step(without + scale * (with_class - without), t, x, eta=0.0).prev_sample
pictures = torch.nn.functional.pixel_shuffle(x, patch)
pictures = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
for name, picture in zip(form["labels"], pictures):
    print(name, picture.flatten().tolist())
