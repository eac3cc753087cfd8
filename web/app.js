// The entry point: creates the modules of js/ and holds the actions that concern several of them.
import {loadConfig} from './js/api.js';
import {ask} from './js/asking.js';
import {BoxEditor, clampBox} from './js/box_editor.js';
import {classLabels, Composer, pointPrompt, renderTips, wireTips} from './js/composer.js';
import {$, announce, reconcile, setFlag, setText, show} from './js/dom.js';
import {labelOf, setReviewThreshold} from './js/findings.js';
import {applyTexts, explain, language, setLanguage, t} from './js/i18n.js';
import {ImageSource} from './js/image_source.js';
import {Intake, thumbnail} from './js/intake.js';
import {Results, spoken, verdictOf} from './js/results.js';
import {SidePanes} from './js/side_panes.js';
import {initTheme, nextTheme, themeLabel} from './js/theme.js';
import {Viewer} from './js/viewer.js';
import {ImageEntry, Turn, Workspace} from './js/workspace.js';

const workspace = new Workspace();
const changed = () => workspace.changed();
const STAGE_TEXTS = {
  uploading: 'stageUploading',
  looking: 'stageLooking',
  answering: 'stageAnswering',
};

async function askAbout(entry, prompt, region) {
  const {mode} = workspace;
  const turn = new Turn({
    prompt,
    sentPrompt: mode === 'points' ? pointPrompt(prompt) : prompt,
    mode,
    labels: mode === 'classes' ? classLabels(prompt) : [],
    region,
    session: workspace.conversation ? entry.session : null,
  });
  entry.turns.push(turn);
  entry.shown = turn;
  entry.selected = null;
  workspace.running = turn;
  workspace.hovered = null;
  workspace.hiddenLabels.clear();
  let stage = '';
  await ask(entry, turn, () => {
    if (turn.stage !== stage && turn.running) announce(t(STAGE_TEXTS[turn.stage]));
    stage = turn.stage;
    changed();
  });
  workspace.running = null;
  announce(spoken(turn));
  changed();
  return turn;
}

function askCurrent(prompt) {
  const {region} = workspace;
  workspace.editing = null;
  panes.chooseTab($('tab-result'));
  return askAbout(workspace.current, prompt, region);
}

// One image after the other; what fails or is cancelled ends the round.
async function askAll() {
  const prompt = composer.ready();
  if (!prompt || workspace.running) return;
  panes.chooseTab($('tab-result'));
  for (const entry of [...workspace.images]) {
    workspace.select(entry);
    const turn = await askAbout(entry, prompt, null);
    if (turn.stage !== 'done') return;
  }
}

function askAgain(turn) {
  if (workspace.running) return;
  composer.text = turn.prompt;
  workspace.region = turn.region;
  workspace.mode = turn.mode;
  for (const radio of document.getElementsByName('mode')) radio.checked = radio.value === turn.mode;
  askCurrent(turn.prompt);
}

async function addFiles(files, suggestions) {
  const problems = [];
  for (const file of files) {
    const name = file.name || 'pasted.png';
    try {
      setText($('image-info'), t('opening'));
      const source = await ImageSource.open(file, name, workspace.config.limits);
      const known = workspace.images.find((entry) => entry.source.key === source.key);
      if (known) {
        workspace.select(known);
        continue;
      }
      workspace.add(new ImageEntry(source, suggestions));
      announce(t('imageAdded', {name}));
    } catch (error) {
      problems.push(t('withName', {name, text: explain(error).text}));
    }
  }
  workspace.problem = problems.length ? problems.join(' ') : null;
  changed();
  if (workspace.current && !problems.length && !matchMedia('(pointer: coarse)').matches)
    composer.focus();
}

function removeImage(entry) {
  if (workspace.running && entry.turns.includes(workspace.running)) workspace.running.cancel();
  workspace.remove(entry);
  queueMicrotask(() => {
    const next = document.querySelector('#thumbnails [aria-current]');
    (next ?? document.querySelector('.welcome .pick')).focus();
  });
}

function reportProblem(error) {
  workspace.problem = explain(error).text;
  changed();
}

function hover(finding) {
  if (workspace.hovered === finding) return;
  workspace.hovered = finding;
  changed();
}

function select(finding) {
  const {current} = workspace;
  if (!current) return;
  current.selected = current.selected === finding ? null : finding;
  changed();
  if (finding) panes.chooseTab($('tab-result'));
}

function edit(box, finding) {
  const {width, height} = workspace.current.source;
  workspace.editing = {box: clampBox(box, width, height), finding};
  workspace.region = workspace.editing.box;
  setDrawing(false);
  panes.chooseTab($('tab-result'));
}

function editTo(box) {
  workspace.editing.box = box;
  workspace.region = box;
  changed();
}

function askInside(finding) {
  workspace.editing = null;
  workspace.region = [...finding.box];
  changed();
  composer.focus();
}

function keepEdit() {
  const {finding, box} = workspace.editing;
  if (finding && finding.box.join() !== box.join()) {
    finding.box = [...box];
    finding.edited = true;
  }
  endEdit();
}

function endEdit() {
  workspace.editing = null;
  workspace.region = null;
  changed();
  $('stage').focus({preventScroll: true});
}

function setDrawing(on) {
  viewer.drawing = on;
  $('draw-region').setAttribute('aria-pressed', String(on));
  $('stage').classList.toggle('drawing', on);
  composer.say(on ? t('drawRegionHint') : '');
  changed();
}

function toggleDrawing() {
  if (viewer.drawing || workspace.editing) {
    setDrawing(false);
    if (workspace.editing) endEdit();
    return;
  }
  setDrawing(true);
}

function drawn(box, finished) {
  const [x1, y1, x2, y2] = box;
  if (!finished) {
    workspace.region = box;
    changed();
    return;
  }
  if (x2 - x1 >= 4 && y2 - y1 >= 4)
    edit(box, null);
  else
    workspace.region = null;
  changed();
}

// The keyboard has no drag: the middle half of the image is where it begins.
function startRegionByKeyboard() {
  const {width, height} = workspace.current.source;
  edit([width / 4, height / 4, 3 * width / 4, 3 * height / 4], null);
  changed();
  queueMicrotask(() => editor.focus());
}

const viewer = new Viewer({stage: $('stage'), canvas: $('canvas'), overlay: $('overlay')}, {
  hover,
  select: (finding) => {
    select(finding);
    if (finding) queueMicrotask(() => results.reveal(finding));
  },
  draw: drawn,
});
const editor = new BoxEditor($('stage'), viewer, editTo);
const composer = new Composer(workspace, {
  ask: askCurrent,
  cancel: () => workspace.running?.cancel(),
  clearRegion: () => {
    workspace.region = null;
    workspace.editing = null;
    changed();
    composer.focus();
  },
});
const results = new Results(workspace, {
  hover,
  select,
  frame: (finding) => viewer.frame(finding.box),
  edit: (finding) => edit(finding.box, finding),
  askInside,
  retry: () => askAgain(workspace.current.shown),
  problem: reportProblem,
});
const panes = new SidePanes(workspace, {
  show: (turn) => workspace.show(turn),
  again: askAgain,
  toast: (text) => composer.say(text),
});
const intake = new Intake({onFiles: addFiles, onProblem: reportProblem});

function renderImage() {
  const {current} = workspace;
  document.body.classList.toggle('empty', !current);
  show($('welcome'), !current);
  show($('viewer'), Boolean(current));
  show($('strip'), Boolean(current));
  show($('ask-all'), workspace.images.length > 1);
  viewer.setSource(current?.source ?? null);
  if (!current) return;
  const {source, shown, selected} = current;
  const {editing, hovered, labels} = workspace;
  viewer.setMarks({
    findings: results.shownFindings,
    selected,
    hovered,
    labels,
    editing,
    region: workspace.region && !editing ? workspace.region : shown?.region ?? null,
  });
  const found = shown ? verdictOf(shown) : t('nothingAsked');
  $('canvas').setAttribute('aria-label', t('stageLabel', {name: source.name, found}));
  $('stage').setAttribute('aria-label', t('imageTitle'));
  setText($('image-verdict'), shown?.stage === 'done' ? found : '');
  const info = [source.name, t('imageInfo', source)];
  if (source.orientation !== 1) info.push(t('imageTurned'));
  setText($('image-info'), info.join(' · '));
  $('toggle-labels').setAttribute('aria-pressed', String(labels));
}

function renderStrip() {
  const actions = {select: (entry) => workspace.select(entry), remove: removeImage};
  reconcile(
      $('thumbnails'), workspace.images, (entry) => entry.id, (entry) => thumbnail(entry, actions),
      updateThumbnail);
}

function updateThumbnail(node, entry) {
  const [tile, remove] = node.children;
  const current = entry === workspace.current;
  node.classList.toggle('current', current);
  setFlag(tile, 'aria-current', current ? 'true' : null);
  const {shown} = entry;
  const badge = tile.lastChild;
  badge.classList.toggle('busy', Boolean(shown?.running));
  badge.classList.toggle('none', Boolean(shown?.absent || shown?.unknown));
  const count = shown?.stage === 'done' ? String(shown.findings.length) : '';
  setText(badge, shown?.running ? '…' : count);
  remove.setAttribute('aria-label', t('removeImage', {name: entry.source.name}));
}

function renderEditing() {
  const {editing, current} = workspace;
  show($('editing'), Boolean(editing));
  const {width, height} = current?.source ?? {width: 0, height: 0};
  editor.set(editing?.box ?? null, width, height);
  if (!editing) return;
  setText(
      $('editing-title'),
      editing.finding ? t('editTitle', {label: labelOf(editing.finding)}) : t('regionTitle'));
  show($('edit-save'), Boolean(editing.finding));
  editing.box.forEach((value, i) => {
    const input = $(`edit-${i}`);
    input.max = i % 2 === 0 ? width : height;
    input.min = 0;
    if (document.activeElement !== input && input.value !== String(value)) input.value = value;
  });
}

function render() {
  const {problem} = workspace;
  show($('problem'), Boolean(problem));
  setText($('problem-text'), problem ?? '');
  renderImage();
  renderStrip();
  renderEditing();
  composer.render();
  results.render();
  panes.render();
}

function renderFrame() {
  applyTexts();
  renderTips();
  intake.render();
  const {limits} = workspace.config;
  setText($('limits'), t('limits', {bytes: limits.image_bytes, pixels: limits.image_pixels}));
  setText($('language-name'), t('otherLanguage'));
  $('language-name').lang = language() === 'zh' ? 'en' : 'zh-CN';
  $('language').setAttribute('aria-label', t('switchLanguage'));
  setText($('theme-name'), t(themeLabel()));
  $('theme').title = t(themeLabel());
  setText($('model-name'), workspace.config.model);
  show($('model'), Boolean(workspace.config.model));
  render();
}

function wire() {
  workspace.addEventListener('change', render);
  $('problem-close').addEventListener('click', () => {
    workspace.problem = null;
    changed();
  });
  $('language').addEventListener('click', () => {
    setLanguage(language() === 'zh' ? 'en' : 'zh');
    renderFrame();
  });
  $('theme').addEventListener('click', () => {
    nextTheme();
    renderFrame();
  });
  $('zoom-in').addEventListener('click', () => viewer.zoomIn());
  $('zoom-out').addEventListener('click', () => viewer.zoomOut());
  $('zoom-fit').addEventListener('click', () => viewer.fit());
  $('zoom-level').addEventListener('click', () => viewer.actualSize());
  $('stage').addEventListener(
      'viewchange', () => setText($('zoom-level'), `${Math.round(100 * viewer.viewport.scale)}%`));
  $('toggle-labels').addEventListener('click', () => {
    workspace.labels = !workspace.labels;
    changed();
  });
  $('draw-region').addEventListener('click', (event) => {
    const byKeyboard = event.detail === 0;  // or by assistive technology
    if (byKeyboard && !workspace.editing)
      startRegionByKeyboard();
    else
      toggleDrawing();
  });
  $('ask-all').addEventListener('click', askAll);
  $('edit-ask').addEventListener('click', () => composer.submit());
  $('edit-save').addEventListener('click', keepEdit);
  $('edit-cancel').addEventListener('click', endEdit);
  for (const i of [0, 1, 2, 3]) {
    $(`edit-${i}`).addEventListener('change', (event) => editNumber(i, event.target));
  }
  addEventListener('keydown', onKey);
}

function editNumber(i, input) {
  const {width, height} = workspace.current.source;
  const next = [...workspace.editing.box];
  next[i] = Number(input.value) || 0;
  editTo(clampBox(next, width, height));
  input.value = workspace.editing.box[i];
}

function onKey(event) {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === '/' && !typing) {
    event.preventDefault();
    composer.focus();
  } else if (event.key === 'Escape' && !event.isComposing) {
    if (workspace.running)
      workspace.running.cancel();
    else if (viewer.drawing)
      setDrawing(false);
    else if (workspace.editing)
      endEdit();
    else if (workspace.current?.selected)
      select(workspace.current.selected);
  }
}

async function start() {
  initTheme();
  applyTexts();
  try {
    workspace.config = await loadConfig();
  } catch (error) {
    show($('problem'), true);
    setText($('problem-text'), explain(error.code ? error : {code: 'CONNECTION_LOST'}).text);
    return;
  }
  setReviewThreshold(workspace.config.thresholds.review);
  wire();
  wireTips();
  renderFrame();
  document.documentElement.dataset.ready = 'true';
}

start();
