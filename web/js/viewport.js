// Where an image lies in a view: image px · scale + offset = CSS px. Pure arithmetic.

const FIT_MARGIN = 16;    // CSS px around a fitted image
const FIT_MAX_SCALE = 3;  // small images are enlarged, within reason
const MAX_SCALE = 32;     // CSS px of one image px

export class Viewport {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true;  // follows the size of the view until the user zooms or pans
  #view = {width: 1, height: 1};
  #image = {width: 1, height: 1};

  setImage(width, height) {
    this.#image = {width, height};
    this.fit();
  }

  setView(width, height) {
    const centre = this.toImage(this.#view.width / 2, this.#view.height / 2);
    this.#view = {width: Math.max(1, width), height: Math.max(1, height)};
    if (this.fitted)
      this.fit();
    else
      this.#centreOn(centre);
  }

  get fitScale() {
    const {width, height} = this.#view;
    const margin = Math.min(FIT_MARGIN, width / 20, height / 20);
    return Math.min(
        (width - 2 * margin) / this.#image.width, (height - 2 * margin) / this.#image.height,
        FIT_MAX_SCALE);
  }

  fit() {
    this.scale = this.fitScale;
    this.fitted = true;
    this.#centreOn([this.#image.width / 2, this.#image.height / 2]);
  }

  #centreOn([x, y]) {
    this.x = this.#view.width / 2 - x * this.scale;
    this.y = this.#view.height / 2 - y * this.scale;
    this.#clamp();
  }

  // Keeps the image point under (x, y), in CSS px of the view.
  zoomAt(x, y, factor) {
    const scale = Math.min(
        Math.max(this.scale * factor, this.fitScale / 2), Math.max(MAX_SCALE, this.fitScale));
    const [imageX, imageY] = this.toImage(x, y);
    this.scale = scale;
    this.x = x - imageX * scale;
    this.y = y - imageY * scale;
    this.fitted = false;
    this.#clamp();
  }

  zoomBy(factor) {
    this.zoomAt(this.#view.width / 2, this.#view.height / 2, factor);
  }

  zoomTo(scale) {
    this.zoomBy(scale / this.scale);
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#clamp();
  }

  // Shows [x1, y1, x2, y2] with some of its surroundings.
  frame([x1, y1, x2, y2]) {
    const {width, height} = this.#view;
    const scale = 0.5 * Math.min(width / Math.max(1, x2 - x1), height / Math.max(1, y2 - y1));
    this.scale = Math.min(Math.max(scale, this.fitScale), MAX_SCALE);
    this.fitted = false;
    this.#centreOn([(x1 + x2) / 2, (y1 + y2) / 2]);
  }

  // The image never leaves the view; one that is smaller than it stays centred.
  #clamp() {
    const along = (offset, size, view) => {
      const drawn = size * this.scale;
      if (drawn <= view) return (view - drawn) / 2;
      return Math.min(FIT_MARGIN, Math.max(offset, view - drawn - FIT_MARGIN));
    };
    this.x = along(this.x, this.#image.width, this.#view.width);
    this.y = along(this.y, this.#image.height, this.#view.height);
  }

  toImage(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toView([x1, y1, x2, y2]) {
    return {
      left: this.x + x1 * this.scale,
      top: this.y + y1 * this.scale,
      width: (x2 - x1) * this.scale,
      height: (y2 - y1) * this.scale,
    };
  }
}
