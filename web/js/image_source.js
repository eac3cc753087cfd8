// An image of the user: the file as it is (that is what goes to the server) and what the page
// draws.
import {ImageError, readHeader, uprightSize, uprightTransform, withoutExif} from './image_header.js';

// The canvas for display has at most this many pixels and this side: enough for every screen, and a
// 50-megapixel photograph takes 48 MB instead of 200.
const DISPLAY_PIXELS = 12e6;
const DISPLAY_SIDE = 8192;
const THUMBNAIL_SIDE = 160;

export function canvasOf(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

export function toBlob(canvas, type = 'image/png', quality = undefined) {
  return new Promise((resolve, reject) => {
    canvas.toBlob(
        (blob) => (blob ? resolve(blob) : reject(new ImageError('CANVAS_TOO_LARGE'))), type,
        quality);
  });
}

export class ImageSource {
  // Reads and decodes. `limits` are those of the server: {image_bytes, image_pixels}.
  static async open(file, name, limits) {
    if (file.size > limits.image_bytes) {
      throw new ImageError('IMAGE_TOO_MANY_BYTES', {bytes: file.size, limit: limits.image_bytes});
    }
    const header = readHeader(new Uint8Array(await file.arrayBuffer()));
    const pixels = header.width * header.height;
    if (pixels > limits.image_pixels) {
      throw new ImageError('IMAGE_TOO_LARGE', {...uprightSize(header), limit: limits.image_pixels});
    }
    const source = new ImageSource(file, name, header);
    await source.#prepareDisplay();
    return source;
  }

  constructor(file, name, header) {
    this.file = file;
    this.name = name;
    this.format = header.format;
    this.orientation = header.orientation;
    this.stored = {width: header.width, height: header.height};
    ({width: this.width, height: this.height} =
         uprightSize(header));              // upright, as in every answer
    this.blob = withoutExif(file, header);  // decodes as stored
  }

  // Stored pixels, scaled. The blob has no EXIF left, so there is nothing a browser could turn.
  async #decode(scale) {
    const options = scale < 1 ? {
      resizeWidth: Math.max(1, Math.round(this.stored.width * scale)),
      resizeHeight: Math.max(1, Math.round(this.stored.height * scale)),
      resizeQuality: 'high',
    } :
                                {};
    try {
      return await createImageBitmap(this.blob, options);
    } catch {
      throw new ImageError('IMAGE_CORRUPT', {format: this.format});
    }
  }

  async #prepareDisplay() {
    const scale = Math.min(
        1, Math.sqrt(DISPLAY_PIXELS / (this.width * this.height)),
        DISPLAY_SIDE / Math.max(this.width, this.height));
    const bitmap = await this.#decode(scale);
    this.display = canvasOf(this.width * scale, this.height * scale);
    this.#paint(this.display, bitmap);
    bitmap.close();
    this.thumbnail = this.#shrink(THUMBNAIL_SIDE);
  }

  // Upright and on white, as the server sees it, over the whole canvas.
  #paint(canvas, bitmap) {
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
    const {width, height} = this.stored;
    context.setTransform(canvas.width / this.width, 0, 0, canvas.height / this.height, 0, 0);
    context.transform(...uprightTransform(this.orientation, width, height));
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, 0, 0, width, height);
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  #shrink(side) {
    const scale = Math.min(1, side / Math.min(this.width, this.height));
    const cut = Math.min(this.width, this.height, side / scale);
    const small = canvasOf(cut * scale, cut * scale);
    const across = this.display.width / this.width;
    const down = this.display.height / this.height;
    const context = small.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(
        this.display, (this.width - cut) / 2 * across, (this.height - cut) / 2 * down, cut * across,
        cut * down, 0, 0, small.width, small.height);
    return small;
  }

  // A canvas with the original pixels, upright. Rejects with CANVAS_TOO_LARGE where the browser has
  // no canvas of that size.
  async full() {
    const canvas = canvasOf(this.width, this.height);
    const bitmap = await this.#decode(1);
    this.#paint(canvas, bitmap);
    bitmap.close();
    const probe = canvas.getContext('2d').getImageData(0, 0, 1, 1).data;
    if (probe[3] !== 255)
      throw new ImageError('CANVAS_TOO_LARGE');  // too large canvases stay transparent
    return canvas;
  }

  // The original pixels of `box` ([x1, y1, x2, y2], upright) as a PNG file.
  async crop([x1, y1, x2, y2]) {
    const whole = await this.full();
    const part = canvasOf(x2 - x1, y2 - y1);
    part.getContext('2d').drawImage(whole, -x1, -y1);
    return toBlob(part);
  }

  // Equal for a file that is added twice.
  get key() {
    return `${this.name}/${this.file.size}/${this.file.lastModified ?? 0}`;
  }
}
