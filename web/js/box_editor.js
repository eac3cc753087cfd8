// A box that can be moved and resized: by mouse, finger and keyboard.
//
// Arrow keys move it by one pixel, with Shift by ten; on a handle they move that side. The number
// fields of the panel do the same without sight of the image.
import {el} from './dom.js';
import {t} from './i18n.js';

const MIN_SIDE = 4;  // image px
// Which of x1, y1, x2, y2 a handle moves.
const HANDLES = {
  nw: [0, 1],
  n: [1],
  ne: [2, 1],
  e: [2],
  se: [2, 3],
  s: [3],
  sw: [0, 3],
  w: [0],
};

// [x1, y1, x2, y2] in whole pixels inside the image, at least MIN_SIDE wide and high.
export function clampBox([x1, y1, x2, y2], width, height) {
  const span = (a, b, limit) => {
    const low = Math.round(Math.min(a, b));
    const high = Math.round(Math.max(a, b));
    const side = Math.min(limit, MIN_SIDE);
    const begin = Math.min(Math.max(0, low), limit - side);
    return [begin, Math.max(begin + side, Math.min(limit, high))];
  };
  const [left, right] = span(x1, x2, width);
  const [top, bottom] = span(y1, y2, height);
  return [left, top, right, bottom];
}

// The box moved as a whole, without changing its size at the borders.
export function moveBox([x1, y1, x2, y2], dx, dy, width, height) {
  const shiftX = Math.min(Math.max(dx, -x1), width - x2);
  const shiftY = Math.min(Math.max(dy, -y1), height - y2);
  return [x1 + shiftX, y1 + shiftY, x2 + shiftX, y2 + shiftY].map(Math.round);
}

export class BoxEditor {
  #box = null;
  #grip = null;

  constructor(stage, viewer, onChange) {
    this.viewer = viewer;
    this.onChange = onChange;
    this.node = el('div', {class: 'editor', role: 'group', tabindex: 0, hidden: true});
    for (const side of Object.keys(HANDLES)) {
      this.node.append(el('button', {type: 'button', class: `handle ${side}`, 'data-side': side}));
    }
    stage.append(this.node);
    stage.addEventListener('viewchange', () => this.#place());
    this.node.addEventListener('pointerdown', (event) => this.#onDown(event));
    this.node.addEventListener('pointermove', (event) => this.#onMove(event));
    this.node.addEventListener('pointerup', () => {
      this.#grip = null;
    });
    this.node.addEventListener('pointercancel', () => {
      this.#grip = null;
    });
    this.node.addEventListener('keydown', (event) => this.#onKey(event));
  }

  // Shows `box`, or nothing when it is null.
  set(box, width, height) {
    this.#box = box;
    this.size = [width, height];
    this.node.hidden = !box;
    this.node.setAttribute('aria-label', t('editorLabel'));
    for (const handle of this.node.children)
      handle.setAttribute('aria-label', t('handleLabel', {side: t(`side_${handle.dataset.side}`)}));
    this.#place();
  }

  focus() {
    this.node.focus({preventScroll: true});
  }

  #place() {
    if (!this.#box) return;
    const at = this.viewer.viewport.toView(this.#box);
    for (const [name, value] of Object.entries(at)) this.node.style[name] = `${value}px`;
  }

  #onDown(event) {
    event.stopPropagation();
    event.preventDefault();
    const side = event.target.dataset.side ?? null;
    this.#grip = {side, x: event.clientX, y: event.clientY, box: this.#box};
    this.node.setPointerCapture(event.pointerId);
    (side ? event.target : this.node).focus({preventScroll: true});
  }

  #onMove(event) {
    if (!this.#grip) return;
    event.stopPropagation();
    const {scale} = this.viewer.viewport;
    this.#change(
        this.#grip.box, this.#grip.side, (event.clientX - this.#grip.x) / scale,
        (event.clientY - this.#grip.y) / scale);
  }

  #onKey(event) {
    const step = event.shiftKey ? 10 : 1;
    const [dx, dy] = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    }[event.key] ??
        [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    event.stopPropagation();
    this.#change(this.#box, event.target.dataset.side ?? null, dx, dy);
  }

  #change(box, side, dx, dy) {
    const [width, height] = this.size;
    let next = [...box];
    if (side === null)
      next = moveBox(box, dx, dy, width, height);
    else
      for (const i of HANDLES[side]) next[i] += i % 2 === 0 ? dx : dy;
    this.onChange(clampBox(next, width, height));
  }
}
