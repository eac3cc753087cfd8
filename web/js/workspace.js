// The state of the page: images, their requests, the selection. Plain data with one change event;
// nothing here touches the DOM.

let nextId = 1;

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `web_${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

// What a request is about: a whole image or a region of one. It is uploaded once; `imageId` is its
// handle, null while the server does not have it.
export class Target {
  imageId = null;
  #file = null;

  constructor(name, makeFile) {
    this.name = name;
    this.makeFile = makeFile;
  }

  async file() {
    this.#file ??= await this.makeFile();
    return this.#file;
  }
}

export class ImageEntry {
  turns = [];       // oldest first
  shown = null;     // the turn whose boxes are drawn
  selected = null;  // one of its objects
  session = randomName();
  #regions = new Map();

  constructor(source, suggestions = null) {
    this.id = nextId++;
    this.source = source;
    this.suggestions = suggestions;  // what suits it: {prompts: {en, zh}, classes: {en, zh}}
    this.target = new Target(source.name, async () => source.file);
  }

  // A region is an image of its own to the server.
  targetOf(region) {
    if (!region) return this.target;
    const key = region.join(',');
    if (!this.#regions.has(key)) {
      this.#regions.set(
          key, new Target(`region_${region.join('_')}.png`, () => this.source.crop(region)));
    }
    return this.#regions.get(key);
  }

  newConversation() {
    this.session = randomName();
  }
}

// One request and what came of it.
export class Turn {
  stage = 'uploading';  // → looking → answering → done | failed | cancelled
  uploaded = 0;         // 0 – 1 while uploading
  uploadMs = 0;         // 0: nothing had to be uploaded
  totalMs = 0;          // as the user saw it, to the end
  objects = [];   // {label, box, confidence, needs_review, edited}; confidence null until the end
  points = [];    // {label, point, confidence}
  answer = null;  // as the server gave it
  error = null;
  fields = {};  // sent beside the image

  constructor({prompt, sentPrompt, mode, labels = [], region, session}) {
    this.id = nextId++;
    this.prompt = prompt;          // as typed
    this.sentPrompt = sentPrompt;  // as asked
    this.mode = mode;              // 'boxes', 'classes' or 'points'
    this.labels = labels;          // of classes
    this.region = region;          // null: the whole image
    this.session = session;        // null: no conversation
  }

  get running() {
    return ['uploading', 'looking', 'answering'].includes(this.stage);
  }

  // What there is to show, boxes first: objects and points in one list.
  get findings() {
    return [...this.objects, ...this.points];
  }

  // Points were requested, and the model answered with boxes.
  get boxesInstead() {
    return this.mode === 'points' && this.points.length === 0 && this.objects.length > 0 &&
        this.stage === 'done';
  }

  // The answer is text without boxes and without an empty list, so "not there" has no confidence.
  get inProse() {
    return this.absent && this.answer.confidence === 0 && this.answer.text.trim() !== '';
  }

  // The answer was cut before its first box, which says nothing about absence.
  get unknown() {
    return this.stage === 'done' && this.findings.length === 0 &&
        typeof this.answer.confidence !== 'number';
  }

  get absent() {
    return this.stage === 'done' && this.findings.length === 0 && !this.unknown;
  }

  // Labels that were asked for and have no objects: {label, confidence}; no confidence: not known.
  get absentLabels() {
    return (this.answer?.labels ?? []).filter(({objects}) => objects.length === 0);
  }
}

export class Workspace extends EventTarget {
  config = null;  // page.json
  images = [];
  current = null;
  running = null;  // the turn being answered, one at a time
  hovered = null;  // a finding under the pointer or focus
  threshold = 0;   // findings under it are hidden
  hiddenLabels = new Set();
  labels = true;  // drawn beside boxes
  mode = 'boxes';
  conversation = true;
  region = null;   // of the current image, for the next request
  editing = null;  // {box, finding | null}; finding: whose box it is
  problem = null;  // text about files that were refused
  #scheduled = false;

  // Listeners run once, before the next frame.
  changed() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.dispatchEvent(new Event('change'));
    });
  }

  add(entry) {
    this.images.push(entry);
    this.select(entry);
  }

  remove(entry) {
    const at = this.images.indexOf(entry);
    this.images.splice(at, 1);
    if (this.current === entry)
      this.select(this.images[Math.min(at, this.images.length - 1)] ?? null);
    this.changed();
  }

  select(entry) {
    this.current = entry;
    this.hovered = null;
    this.region = null;
    this.editing = null;
    this.hiddenLabels.clear();
    this.changed();
  }

  show(turn) {
    this.current.shown = turn;
    this.current.selected = null;
    this.hovered = null;
    this.editing = null;
    this.region = null;
    this.hiddenLabels.clear();
    this.changed();
  }

  visible(finding) {
    const confidence = finding.confidence ?? 1;
    return confidence >= this.threshold && !this.hiddenLabels.has(finding.label);
  }
}
