from train_nano.kinds import SHAPES, load_kinds


def test_the_table_names_every_kind_in_both_languages_once():
    kinds = load_kinds()
    assert len(kinds) == 802 and sum(k.is_shape for k in kinds) == len(SHAPES) == 12
    names = [n for k in kinds if not k.is_shape for n in (*k.en, k.zh)]  # shapes are asked for by colour
    assert len(names) == len(set(names))
    assert all(k.zh and k.en[0] == k.en[0].lower() for k in kinds)


def test_known_rows_keep_their_place():
    kinds = {k.code_point: k for k in load_kinds() if not k.is_shape}
    assert (kinds[0x1F989].en[0], kinds[0x1F989].zh, kinds[0x1F989].subgroup) == ("owl", "猫头鹰", "animal-bird")


def test_the_font_has_an_image_of_every_kind(book):
    assert [k.en[0] for k in book.kinds if not k.is_shape and k.code_point not in book._font] == []


def test_a_file_that_is_no_bitmap_font_is_refused(tmp_path):
    import pytest
    from train_nano.font import BitmapFont, FontError

    with pytest.raises(FontError, match="fonts-noto-color-emoji"):
        BitmapFont(tmp_path / "none.ttf")
    (tmp_path / "empty.ttf").write_bytes(b"\0\1\0\0\0\0" + bytes(6))
    with pytest.raises(FontError, match="CBDT"):
        BitmapFont(tmp_path / "empty.ttf")
