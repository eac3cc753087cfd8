// Draws the current image with what was found in it, and lets the user zoom and pan by wheel,
// pinch, drag, buttons and keyboard.
import {el, reconcile, setText} from './dom.js';
import {describe, isReview} from './findings.js';
import {t} from './i18n.js';
import {Viewport} from './viewport.js';

const WHEEL_SPEED = 0.0015;
const BUTTON_FACTOR = 1.4;
const PAN_STEP = 60;
const DRAG_START = 4;  // CSS px before a press becomes a drag
// CSS px. A box that is nearer to the border has its label inside, or on its other side.
const LABEL_WIDTH = 150;
const LABEL_HEIGHT = 26;
const SHARP_FROM_SCALE = 3;  // CSS px per drawn px from which single pixels are shown

export class Viewer {
  viewport = new Viewport();
  #pointers = new Map();
  #drag = null;
  #frame = 0;
  #source = null;

  // `handlers`: hover(finding | null), select(finding | null), draw(box) when a region has been
  // drawn.
  constructor({stage, canvas, overlay}, handlers) {
    this.stage = stage;
    this.canvas = canvas;
    this.overlay = overlay;
    this.handlers = handlers;
    this.drawing = false;  // the next drag draws a region
    new ResizeObserver(() => this.#resized()).observe(stage);
    this.#listen();
  }

  setSource(source) {
    if (this.#source === source) return;
    this.#source = source;
    if (source) {
      this.stage.style.setProperty('--image-aspect', `${source.width} / ${source.height}`);
      this.viewport.setImage(source.width, source.height);
    }
    this.redraw();
  }

  // `marks`: {findings, selected, hovered, region, labels, editing}
  setMarks(marks) {
    this.marks = marks;
    this.redraw();
  }

  redraw() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const context = this.canvas.getContext('2d');
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.#source) {
      const {scale, x, y} = this.viewport;
      const {display, width, height} = this.#source;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.imageSmoothingEnabled = scale * width / display.width < SHARP_FROM_SCALE;
      context.imageSmoothingQuality = 'high';
      context.drawImage(display, x, y, width * scale, height * scale);
    }
    this.#drawMarks();
    this.stage.dispatchEvent(new CustomEvent('viewchange'));
  }

  #drawMarks() {
    const {findings = [], region = null, labels = true} = this.marks ?? {};
    this.overlay.classList.toggle('no-labels', !labels);
    const all = region ? [{region: true, box: region}, ...findings] : findings;
    reconcile(
        this.overlay, this.#source ? all : [], (_, index) => index,
        () => el('div', {class: 'mark'}, el('span', {class: 'mark-label'})),
        (node, finding) => this.#placeMark(node, finding));
  }

  #placeMark(node, finding) {
    const {selected, hovered, editing} = this.marks;
    const at = this.#markPlace(finding);
    const point = Boolean(finding.point);
    const region = Boolean(finding.region);
    const active = finding === selected || finding === hovered;
    const classes = {
      point,
      region,
      active,
      review: isReview(finding),
      selected: finding === selected,
      dimmed: Boolean(editing) || (Boolean(hovered) && finding !== hovered && !region),
      'label-inside': !point && at.top < LABEL_HEIGHT,
      'label-left': !point && at.left + LABEL_WIDTH > this.stage.clientWidth &&
          at.left + at.width > LABEL_WIDTH,
    };
    for (const [name, on] of Object.entries(classes)) node.classList.toggle(name, on);
    node.finding = region ? null : finding;
    for (const side of ['left', 'top', 'width', 'height']) {
      node.style[side] = at[side] === undefined ? '' : `${at[side]}px`;
    }
    node.style.zIndex = layerOf(finding, at);
    setText(node.firstChild, region ? t('region') : describe(finding));
  }

  // In CSS px; a point has a place and the size that the style sheet gives it.
  #markPlace({box, point}) {
    if (box) return this.viewport.toView(box);
    const [x, y] = point;
    const {left, top, width, height} = this.viewport.toView([x, y, x + 1, y + 1]);
    return {left: left + width / 2, top: top + height / 2};
  }

  #resized() {
    const {clientWidth, clientHeight} = this.stage;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.viewport.setView(clientWidth, clientHeight);
    this.#draw();  // at once: a canvas that was resized is empty
  }

  zoomIn() {
    this.#moved(() => this.viewport.zoomBy(BUTTON_FACTOR));
  }

  zoomOut() {
    this.#moved(() => this.viewport.zoomBy(1 / BUTTON_FACTOR));
  }

  fit() {
    this.#moved(() => this.viewport.fit());
  }

  actualSize() {
    this.#moved(() => this.viewport.zoomTo(1));
  }

  frame(box) {
    this.#moved(() => this.viewport.frame(box));
  }

  #moved(change) {
    change();
    // A finger scrolls the page as long as there is nothing to pan.
    this.stage.classList.toggle('zoomed', this.viewport.scale > this.viewport.fitScale * 1.001);
    this.redraw();
  }

  #listen() {
    const {stage} = this;
    stage.addEventListener('wheel', (event) => this.#onWheel(event), {passive: false});
    stage.addEventListener('pointerdown', (event) => this.#onPointerDown(event));
    stage.addEventListener('pointermove', (event) => this.#onPointerMove(event));
    stage.addEventListener('pointerup', (event) => this.#onPointerUp(event));
    stage.addEventListener('pointercancel', (event) => this.#onPointerUp(event));
    stage.addEventListener('pointerleave', () => this.handlers.hover(null));
    stage.addEventListener('dblclick', (event) => this.#onDoubleClick(event));
    stage.addEventListener('keydown', (event) => this.#onKey(event));
  }

  #at(event) {
    const {left, top} = this.stage.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #onWheel(event) {
    if (!this.#source) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
    // A pinch on a trackpad comes as small steps with ctrl.
    const speed = event.ctrlKey ? 6 * WHEEL_SPEED : WHEEL_SPEED;
    this.#moved(() => this.viewport.zoomAt(...this.#at(event), Math.exp(-pixels * speed)));
  }

  #onPointerDown(event) {
    if (!this.#source || event.button > 0 || event.target.closest('.editor')) return;
    this.#pointers.set(event.pointerId, this.#at(event));
    const start = this.#at(event);
    const finding = event.target.closest('.mark')?.finding ?? null;
    this.#drag = {start, moved: false, finding};
    if (this.drawing || event.pointerType === 'mouse') capturePointer(this.stage, event.pointerId);
  }

  #onPointerMove(event) {
    const here = this.#at(event);
    if (!this.#pointers.has(event.pointerId)) {
      this.handlers.hover(event.target.closest?.('.mark')?.finding ?? null);
      return;
    }
    const before = this.#pointers.get(event.pointerId);
    if (this.#pointers.size === 2)
      this.#pinch(event.pointerId, here);
    else if (this.#drag)
      this.#dragTo(here, before, event.pointerType);
    this.#pointers.set(event.pointerId, here);
  }

  #pinch(id, here) {
    this.#drag = null;
    const before = this.#pointers.get(id);
    const other = [...this.#pointers].find(([key]) => key !== id)[1];
    const distance = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    const middle = [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2];
    this.#moved(() => {
      this.viewport.zoomAt(...middle, distance(here, other) / distance(before, other));
      this.viewport.panBy((here[0] - before[0]) / 2, (here[1] - before[1]) / 2);
    });
  }

  #dragTo(here, before, pointerType) {
    const {start} = this.#drag;
    this.#drag.moved ||= Math.hypot(here[0] - start[0], here[1] - start[1]) > DRAG_START;
    if (!this.#drag.moved) return;
    if (this.drawing) {
      this.handlers.draw(this.#boxBetween(start, here), false);
      return;
    }
    const canPan = this.viewport.scale > this.viewport.fitScale * 1.001;
    if (pointerType === 'touch' && !canPan) return;  // the page scrolls
    this.#moved(() => this.viewport.panBy(here[0] - before[0], here[1] - before[1]));
  }

  #onPointerUp(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    const drag = this.#drag;
    this.#drag = null;
    if (!drag || event.type === 'pointercancel') return;
    if (this.drawing && drag.moved)
      this.handlers.draw(this.#boxBetween(drag.start, this.#at(event)), true);
    else if (!drag.moved && !this.drawing)
      this.handlers.select(drag.finding);
  }

  #boxBetween(a, b) {
    const {width, height} = this.#source;
    const within = (value, limit) => Math.min(Math.max(Math.round(value), 0), limit);
    const [ax, ay] = this.viewport.toImage(...a);
    const [bx, by] = this.viewport.toImage(...b);
    const [left, right] = [within(Math.min(ax, bx), width), within(Math.max(ax, bx), width)];
    const [top, bottom] = [within(Math.min(ay, by), height), within(Math.max(ay, by), height)];
    return [left, top, right, bottom];
  }

  #onDoubleClick(event) {
    if (event.target.closest('.editor') || this.drawing) return;
    const box = event.target.closest('.mark')?.finding?.box;
    if (box)
      this.frame(box);
    else if (this.viewport.fitted)
      this.#moved(() => this.viewport.zoomAt(...this.#at(event), 2.5));
    else
      this.fit();
  }

  #onKey(event) {
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    if (event.target !== this.stage || !this.#source || modified) return;
    const keys = {
      ArrowLeft: () => this.viewport.panBy(PAN_STEP, 0),
      ArrowRight: () => this.viewport.panBy(-PAN_STEP, 0),
      ArrowUp: () => this.viewport.panBy(0, PAN_STEP),
      ArrowDown: () => this.viewport.panBy(0, -PAN_STEP),
      '+': () => this.viewport.zoomBy(BUTTON_FACTOR),
      '=': () => this.viewport.zoomBy(BUTTON_FACTOR),
      '-': () => this.viewport.zoomBy(1 / BUTTON_FACTOR),
      0: () => this.viewport.fit(),
      1: () => this.viewport.zoomTo(1),
    };
    const change = keys[event.key];
    if (!change) return;
    event.preventDefault();
    this.#moved(change);
  }
}

// Small boxes lie over large ones, so that both can be pointed at; points lie over all.
function layerOf(finding, {width, height}) {
  if (finding.region) return 0;
  if (finding.point) return 2000;
  return 1 + Math.max(0, 1000 - Math.round(Math.sqrt(width * height)));
}

function capturePointer(stage, pointerId) {
  try {
    stage.setPointerCapture(pointerId);
  } catch {
    // The pointer is up: there is no movement to follow.
  }
}
