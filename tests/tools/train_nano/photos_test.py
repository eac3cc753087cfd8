import random

import numpy as np
import pytest
import torch
from train_nano.photos import BANK_SIDE, Photo, PhotoSampler, Seen, cut


def test_crops_put_boxes_where_their_pixels_are():
    """A photograph with one white rectangle: whatever the crop, the answer surrounds the white."""
    box = (120, 90, 200, 150)
    bank = np.zeros((1, 3, BANK_SIDE, BANK_SIDE), np.uint8)
    bank[0, :, box[1]:box[3], box[0]:box[2]] = 255
    photo = Photo("chess", 400, 300, (Seen("white pawn", "白兵", box),))
    sampler = PhotoSampler([photo], random.Random(3))
    checked = 0
    for _ in range(30):
        crop, turns = sampler.sample(280, 224)
        row = [[crop.photo, crop.left, crop.top, crop.scale, float(crop.mirror)]]
        image = cut(torch.from_numpy(bank), torch.tensor(row), 224, 280)[0, 0] > 0.5
        ys, xs = image.any(1).nonzero(), image.any(0).nonzero()
        drawn = [int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1]
        for _, answer in turns:
            if answer != "[]":
                import json

                predicted = json.loads(answer)[0]["bbox_2d"]
                assert max(abs(a - b) for a, b in zip(predicted, drawn)) <= 2, (predicted, drawn, crop)
                checked += 1
    assert checked > 10


def test_names_of_which_an_instance_is_cut_off_are_not_asked_for():
    photo = Photo("chess", 400, 300, (Seen("rook", "车", (10, 10, 60, 60)), Seen("rook", "车", (380, 10, 480, 60))))
    from train_nano.photos import Crop

    objects, unclear = PhotoSampler._visible(Crop(0, 0, 0, 1.0, False), photo, 400, 300)
    assert len(objects) == 1 and unclear == {"rook"}


def test_a_set_without_any_whole_thing_is_an_error():
    sampler = PhotoSampler([Photo("chess", 400, 300, (Seen("dot", "点", (5, 5, 7, 7)),))], random.Random(1))
    with pytest.raises(RuntimeError):
        sampler.sample(224, 224)
