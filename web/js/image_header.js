// What a file says about its image before any pixel is decoded: format, stored size and EXIF
// orientation.
//
// Browsers disagree about orientation (Chromium honours it in JPEG, not in WebP) and the page must
// draw boxes that the server gives in upright pixels. So nothing is left to the browser: the
// orientation is read here by the server's rules (common/image), the EXIF block is hidden from the
// decoder, and the page turns the image itself.

export class ImageError extends Error {
  // `code` is one of the server's reasons, so that both sides are explained by the same text.
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

const ascii = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
const be16 = (bytes, at) => (bytes[at] << 8) | bytes[at + 1];
const be32 = (bytes, at) =>
    ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
const le24 = (bytes, at) => bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
const le32 = (bytes, at) => (le24(bytes, at) | (bytes[at + 3] << 24)) >>> 0;

const ORIENTATION_TAG = 0x0112;
// Bytes of the integer types of TIFF that the server understands.
const TYPE_BYTES = {
  3: 2,
  4: 4,
  6: 1,
  8: 2,
  9: 4,
  13: 4
};

// Of a TIFF block, with or without "Exif\0\0" in front. 1 when it has none, or one that is not
// valid.
export function exifOrientation(block) {
  const tiff = ascii(block, 0, 6) === 'Exif\0\0' ? block.subarray(6) : block;
  const order = ascii(tiff, 0, 2);
  if (tiff.length < 8 || (order !== 'II' && order !== 'MM')) return 1;
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.length);
  const little = order === 'II';
  const u16 = (at) => view.getUint16(at, little);
  const u32 = (at) => view.getUint32(at, little);
  if (u16(2) !== 42) return 1;
  const directory = u32(4);
  if (directory > tiff.length - 2) return 1;
  const entries = Math.min(u16(directory), Math.floor((tiff.length - directory - 2) / 12));
  for (let i = 0; i < entries; i++) {
    const entry = directory + 2 + 12 * i;
    if (u16(entry) !== ORIENTATION_TAG) continue;
    const size = TYPE_BYTES[u16(entry + 2)] ?? 0;
    const count = u32(entry + 4);
    if (size === 0 || count === 0) return 1;
    const at = size * count <= 4 ? entry + 8 : u32(entry + 8);
    if (at > tiff.length - size) return 1;
    const value = size === 1 ? tiff[at] : size === 2 ? u16(at) : u32(at);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

// Each reader returns {format, width, height, orientation, hide}; `hide` lists the byte ranges that
// keep EXIF from a decoder: [begin, end, replacement].

const corrupt = (format) => new ImageError('IMAGE_CORRUPT', {format});

function readJpeg(bytes) {
  const header = {format: 'JPEG', orientation: 1, hide: []};
  let hasExif = false;
  for (let at = 2;;) {
    at = bytes.indexOf(0xff, at);
    while (at >= 0 && bytes[at] === 0xff) at++;
    if (at < 0 || at + 3 > bytes.length) throw corrupt('JPEG');
    const marker = bytes[at++];
    if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd7)) continue;
    const length = be16(bytes, at);
    if (marker === 0xd8 || marker === 0xd9 || length < 2 || at + length > bytes.length)
      throw corrupt('JPEG');
    const body = bytes.subarray(at + 2, at + length);
    if (marker === 0xda) break;
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      header.height = be16(body, 1);
      header.width = be16(body, 3);
    } else if (marker === 0xe1 && ascii(body, 0, 6) === 'Exif\0\0') {
      if (!hasExif && body.length > 6) {
        hasExif = true;
        header.orientation = exifOrientation(body);
      }
      header.hide.push([at - 2, at + length, '']);
    }
    at += length;
  }
  return header;
}

function readPng(bytes) {
  const header = {format: 'PNG', orientation: 1, hide: []};
  header.width = be32(bytes, 16);
  header.height = be32(bytes, 20);
  let hasExif = false;
  for (let at = 8;;) {
    if (at + 12 > bytes.length) throw corrupt('PNG');
    const length = be32(bytes, at);
    const type = ascii(bytes, at + 4, 4);
    if (at + 12 + length > bytes.length) throw corrupt('PNG');
    if (type === 'acTL') throw new ImageError('IMAGE_ANIMATED', {format: 'PNG'});
    if (type === 'IEND') return header;
    if (type === 'eXIf') {
      if (!hasExif) header.orientation = exifOrientation(bytes.subarray(at + 8, at + 8 + length));
      hasExif = true;
      header.hide.push([at, at + 12 + length, '']);
    }
    at += 12 + length;
  }
}

// The size of a WebP's first frame, by the kind of its chunk.
function webpSize(bytes, type, at) {
  if (type === 'VP8X') return [le24(bytes, at + 4) + 1, le24(bytes, at + 7) + 1];
  if (type === 'VP8L') {
    const bits = le32(bytes, at + 1);
    return [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1];
  }
  return [
    (bytes[at + 6] | (bytes[at + 7] << 8)) & 0x3fff, (bytes[at + 8] | (bytes[at + 9] << 8)) & 0x3fff
  ];
}

function readWebp(bytes) {
  const header = {format: 'WebP', orientation: 1, hide: []};
  const end = 8 + le32(bytes, 4);
  if (end > bytes.length) throw corrupt('WebP');
  let flags = 0;
  let hasExif = false;
  for (let at = 12; at + 8 <= end;) {
    const type = ascii(bytes, at, 4);
    const length = le32(bytes, at + 4);
    const body = at + 8;
    if (body + length > end) throw corrupt('WebP');
    if (type === 'VP8X') flags = bytes[body];
    if (flags & 2 || type === 'ANIM' || type === 'ANMF')
      throw new ImageError('IMAGE_ANIMATED', {format: 'WebP'});
    if (!header.width && ['VP8X', 'VP8L', 'VP8 '].includes(type)) {
      [header.width, header.height] = webpSize(bytes, type, body);
    } else if (type === 'EXIF') {
      if (flags & 8 && !hasExif) {
        hasExif = true;
        header.orientation = exifOrientation(bytes.subarray(body, body + length));
      }
      header.hide.push([at, at + 4, 'SKIP']);  // a chunk that is not known is passed over
    }
    at = body + length + (length & 1);
  }
  if (!header.width) throw corrupt('WebP');
  return header;
}

const REFUSED = [
  ['GIF8', 'GIF'],
  ['II*\0', 'TIFF'],
  ['MM\0*', 'TIFF'],
  ['II+\0', 'TIFF'],
  ['MM\0+', 'TIFF'],
  ['\0\0\0\x0cjP  ', 'JPEG 2000'],
  ['\xffO\xffQ', 'JPEG 2000'],
  ['\0\0\0\x0cJXL ', 'JPEG XL'],
  ['\xff\x0a', 'JPEG XL'],
  ['%PDF-', 'PDF'],
  ['8BPS', 'PSD'],
  ['\0\0\x01\0', 'ICO'],
  ['BM', 'BMP'],
];

function refusedFormat(bytes) {
  if (ascii(bytes, 4, 4) === 'ftyp') {
    const brands = ascii(bytes, 8, Math.min(be32(bytes, 0), 256) - 8);
    if (/avi[fs]/.test(brands)) return 'AVIF';
    if (/hei[cxms]|hev[cx]|m[is]f1/.test(brands)) return 'HEIC';
  }
  const start = ascii(bytes, 0, Math.min(bytes.length, 4096));
  const known = REFUSED.find(([magic]) => start.startsWith(magic));
  if (known) return known[1];
  return /^(\xef\xbb\xbf)?\s*</.test(start) && start.includes('<svg') ? 'SVG' : '';
}

// Throws ImageError when the file is not one that the server takes.
export function readHeader(bytes) {
  if (bytes.length === 0) throw new ImageError('IMAGE_EMPTY');
  if (ascii(bytes, 0, 3) === '\xff\xd8\xff') return checked(readJpeg(bytes));
  if (ascii(bytes, 0, 8) === '\x89PNG\r\n\x1a\n') return checked(readPng(bytes));
  if (ascii(bytes, 0, 4) === 'RIFF' && ascii(bytes, 8, 4) === 'WEBP')
    return checked(readWebp(bytes));
  const format = refusedFormat(bytes);
  if (format) throw new ImageError('IMAGE_FORMAT_UNSUPPORTED', {format});
  throw new ImageError('IMAGE_FORMAT_UNKNOWN');
}

const MAX_ASPECT_RATIO = 200;

function checked(header) {
  const {width, height} = header;
  if (!(width > 0 && height > 0)) throw new ImageError('IMAGE_ZERO_SIDE');
  if (Math.max(width, height) > MAX_ASPECT_RATIO * Math.min(width, height)) {
    throw new ImageError('IMAGE_ASPECT_RATIO', {width, height});
  }
  return header;
}

// The same image without EXIF, for the browser's decoder only. No pixel data is copied.
export function withoutExif(file, header) {
  const parts = [];
  let at = 0;
  for (const [begin, end, replacement] of header.hide) {
    parts.push(file.slice(at, begin), replacement);
    at = end;
  }
  parts.push(file.slice(at));
  return new Blob(parts, {type: `image/${header.format.toLowerCase()}`});
}

export function uprightSize({width, height, orientation}) {
  return orientation >= 5 ? {width: height, height: width} : {width, height};
}

// [a, b, c, d, e, f] of the canvas transform that draws a stored w × h image upright.
export function uprightTransform(orientation, w, h) {
  return {
    1: [1, 0, 0, 1, 0, 0],
    2: [-1, 0, 0, 1, w, 0],
    3: [-1, 0, 0, -1, w, h],
    4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, h, 0],
    7: [0, -1, -1, 0, h, w],
    8: [0, -1, 1, 0, 0, w],
  }[orientation];
}
