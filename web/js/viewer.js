// Draws the current image with what was found in it, and lets the user zoom and pan by wheel, pinch,
// drag, buttons and keyboard.
import {el, reconcile, setText} from './dom.js';
import {t} from './i18n.js';
import {describe, isReview} from './findings.js';
import {Viewport} from './viewport.js';

const WHEEL_SPEED = 0.0015;
const BUTTON_FACTOR = 1.4;
const PAN_STEP = 60;
const DRAG_START = 4;           // CSS px before a press becomes a drag
const SHARP_FROM_SCALE = 3;     // CSS px per drawn px from which single pixels are shown

export class Viewer {
  viewport = new Viewport();
  #pointers = new Map();
  #drag = null;
  #frame = 0;
  #source = null;

  // `handlers`: hover(finding | null), select(finding | null), draw(box) when a region has been drawn.
  constructor({stage, canvas, overlay}, handlers) {
    this.stage = stage;
    this.canvas = canvas;
    this.overlay = overlay;
    this.handlers = handlers;
    this.drawing = false;  // the next drag draws a region
    new ResizeObserver(() => this.#resized()).observe(stage);
    this.#listen();
  }

  // --- content ------------------------------------------------------------------------------------

  setSource(source) {
    if (this.#source === source) return;
    this.#source = source;
    if (source) this.viewport.setImage(source.width, source.height);
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
    reconcile(this.overlay, this.#source ? all : [], (_, index) => index,
              () => el('div', {class: 'mark'}, el('span', {class: 'mark-label'})),
              (node, finding) => this.#placeMark(node, finding));
  }

  #placeMark(node, finding) {
    const {selected, hovered, editing} = this.marks;
    const [px, py] = finding.point ?? [0, 0];
    const at = this.viewport.toView(finding.box ?? [px, py, px + 1, py + 1]);
    const point = Boolean(finding.point);
    node.finding = finding.region ? null : finding;
    node.className = 'mark';
    node.classList.toggle('point', point);
    node.classList.toggle('region', Boolean(finding.region));
    node.classList.toggle('review', isReview(finding));
    node.classList.toggle('active', finding === selected || finding === hovered);
    node.classList.toggle('selected', finding === selected);
    node.classList.toggle('dimmed', Boolean(editing) || Boolean(hovered && finding !== hovered && !finding.region));
    node.classList.toggle('label-inside', !point && at.top < 26);
    Object.assign(node.style, point
        ? {left: `${at.left + at.width / 2}px`, top: `${at.top + at.height / 2}px`, width: '', height: ''}
        : {left: `${at.left}px`, top: `${at.top}px`, width: `${at.width}px`, height: `${at.height}px`});
    // Small boxes lie over large ones, so that both can be pointed at.
    node.style.zIndex = finding.region ? 0 : point ? 2000 : 1 + Math.max(0, 1000 - Math.round(Math.sqrt(at.width * at.height)));
    setText(node.firstChild, finding.region ? t('region') : describe(finding));
  }

  #resized() {
    const {clientWidth, clientHeight} = this.stage;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.viewport.setView(clientWidth, clientHeight);
    this.#draw();  // at once: a canvas that was resized is empty
  }

  // --- zoom and pan -------------------------------------------------------------------------------

  zoomIn() { this.#moved(() => this.viewport.zoomBy(BUTTON_FACTOR)); }
  zoomOut() { this.#moved(() => this.viewport.zoomBy(1 / BUTTON_FACTOR)); }
  fit() { this.#moved(() => this.viewport.fit()); }
  actualSize() { this.#moved(() => this.viewport.zoomTo(1)); }
  frame(box) { this.#moved(() => this.viewport.frame(box)); }

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
    this.#drag = {start, last: start, moved: false, finding: event.target.closest('.mark')?.finding ?? null};
    if (this.drawing || event.pointerType === 'mouse') capturePointer(this.stage, event.pointerId);
  }

  #onPointerMove(event) {
    const here = this.#at(event);
    if (!this.#pointers.has(event.pointerId)) {
      this.handlers.hover(event.target.closest?.('.mark')?.finding ?? null);
      return;
    }
    const before = this.#pointers.get(event.pointerId);
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, here);
    else if (this.#drag) this.#dragTo(here, before, event.pointerType);
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
    if (this.drawing && drag.moved) this.handlers.draw(this.#boxBetween(drag.start, this.#at(event)), true);
    else if (!drag.moved && !this.drawing) this.handlers.select(drag.finding);
  }

  #boxBetween(a, b) {
    const {width, height} = this.#source;
    const limit = ([x, y]) => [Math.min(Math.max(Math.round(x), 0), width), Math.min(Math.max(Math.round(y), 0), height)];
    const [ax, ay] = limit(this.viewport.toImage(...a));
    const [bx, by] = limit(this.viewport.toImage(...b));
    return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
  }

  #onDoubleClick(event) {
    if (event.target.closest('.editor') || this.drawing) return;
    const box = event.target.closest('.mark')?.finding?.box;
    if (box) this.frame(box);
    else if (this.viewport.fitted) this.#moved(() => this.viewport.zoomAt(...this.#at(event), 2.5));
    else this.fit();
  }

  #onKey(event) {
    if (event.target !== this.stage || !this.#source || event.ctrlKey || event.metaKey || event.altKey) return;
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

// The pointer may have been released by the time this runs.
function capturePointer(stage, pointerId) {
  try {
    stage.setPointerCapture(pointerId);
  } catch {
    // Then there is nothing to follow.
  }
}
