// Where images come from: files, drag and drop, the clipboard, the camera, the examples.
import {$, el, icon, setText, show} from './dom.js';
import {t} from './i18n.js';
import {ImageError} from './image_header.js';
import {canvasOf, toBlob} from './image_source.js';

// Images that travel with the page, each with prompts and lists of classes that every model can
// answer about it.
export const SAMPLES = [
  {
    id: 'fruit',
    prompts: {
      en: ['all red apples', 'the biggest apple', 'the pineapple', 'the bicycle'],
      zh: ['所有红苹果', '葡萄', '菠萝', '自行车'],
    },
    classes: {en: ['apple, grapes, banana, tractor'], zh: ['苹果, 葡萄, 香蕉, 拖拉机']},
  },
  {
    id: 'night',
    prompts: {
      en: ['all owls', 'the leftmost owl', 'the cactus', 'the boat'],
      zh: ['所有猫头鹰', '最左边的猫头鹰', '仙人掌', '船'],
    },
    classes: {en: ['owl, cactus, boat'], zh: ['猫头鹰, 仙人掌, 船']},
  },
  {
    id: 'shore',
    prompts: {
      en: ['the octopus', 'the crab', 'the sailboat', 'the car'],
      zh: ['章鱼', '螃蟹', '帆船', '汽车'],
    },
    classes: {en: ['crab, octopus, sailboat, cow'], zh: ['螃蟹, 章鱼, 帆船, 拖拉机']},
  },
  {
    id: 'farm',
    prompts: {
      en: ['all mammals', 'the tractor', 'the house', 'the guitar'],
      zh: ['所有哺乳动物', '拖拉机', '奶牛', '吉他'],
    },
    classes: {en: ['cow, tractor, house, guitar'], zh: ['奶牛, 拖拉机, 房子, 吉他']},
  },
];

export class Intake {
  // `onFiles(files, suggestions | null)`, `onProblem(error)`.
  constructor({onFiles, onProblem}) {
    this.onFiles = onFiles;
    this.onProblem = onProblem;
    this.#wireFiles();
    this.#wireDrop();
    document.addEventListener('paste', (event) => this.#onPaste(event));
    $('camera-take').addEventListener('click', () => this.#takePhoto());
    $('camera-cancel').addEventListener('click', () => $('camera').close());
    $('camera').addEventListener('close', () => this.#stopCamera());
    for (const sample of SAMPLES) $('samples').append(this.#sampleTile(sample));
  }

  #wireFiles() {
    for (const input of [$('file'), $('capture')]) {
      input.addEventListener('change', () => {
        this.onFiles([...input.files], null);
        input.value = '';  // the same file may be chosen again
      });
    }
    for (const button of document.querySelectorAll('.pick'))
      button.addEventListener('click', () => $('file').click());
    for (const button of document.querySelectorAll('.shoot'))
      button.addEventListener('click', () => this.#shoot());
  }

  #wireDrop() {
    let depth = 0;
    const carriesFiles = (event) => event.dataTransfer?.types.includes('Files');
    const end = () => {
      depth = 0;
      show($('drop-hint'), false);
    };
    addEventListener('dragenter', (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth += 1;
      show($('drop-hint'), true);
    });
    addEventListener('dragover', (event) => carriesFiles(event) && event.preventDefault());
    addEventListener('dragleave', () => {
      if (depth > 0 && --depth === 0) end();
    });
    addEventListener('drop', (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      end();
      this.onFiles([...event.dataTransfer.files], null);
    });
  }

  #onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;  // text goes where the cursor is
    event.preventDefault();
    this.onFiles(files, null);
  }

  // Telephones have a camera application that the file input opens; elsewhere the page shows the
  // video.
  async #shoot() {
    const handheld = matchMedia('(pointer: coarse)').matches;
    if (handheld || !navigator.mediaDevices?.getUserMedia) {
      $('capture').click();
      return;
    }
    try {
      const video = $('camera-video');
      video.srcObject = await navigator.mediaDevices.getUserMedia(
          {video: {facingMode: 'environment', width: {ideal: 1920}, height: {ideal: 1080}}});
      await video.play();
      $('camera').showModal();
    } catch {
      this.#stopCamera();
      this.onProblem(new ImageError('CAMERA'));
    }
  }

  async #takePhoto() {
    const video = $('camera-video');
    const canvas = canvasOf(video.videoWidth, video.videoHeight);
    canvas.getContext('2d').drawImage(video, 0, 0);
    $('camera').close();
    try {
      const blob = await toBlob(canvas, 'image/jpeg', 0.92);
      const time = new Date().toTimeString().slice(0, 8).replaceAll(':', '');
      this.onFiles([new File([blob], `camera_${time}.jpg`, {type: 'image/jpeg'})], null);
    } catch (error) {
      this.onProblem(error);
    }
  }

  #stopCamera() {
    const video = $('camera-video');
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  }

  #sampleTile(sample) {
    return el(
        'li', {},
        el('button', {
          type: 'button',
          class: 'sample',
          'data-sample': sample.id,
          onclick: () => this.#openSample(sample)
        },
           el('img',
              {src: `samples/${sample.id}.webp`, alt: '', loading: 'lazy', width: 120, height: 90}),
           el('span')));
  }

  async #openSample({id, prompts, classes}) {
    try {
      const response = await fetch(`samples/${id}.webp`);
      if (!response.ok) throw new ImageError('SAMPLE');
      const blob = await response.blob();
      this.onFiles(
          [new File([blob], `${id}.webp`, {type: 'image/webp', lastModified: 0})],
          {prompts, classes});
    } catch {
      this.onProblem(new ImageError('SAMPLE'));
    }
  }

  render() {
    for (const tile of document.querySelectorAll('.sample'))
      setText(tile.lastElementChild, t('sampleNames')[tile.dataset.sample]);
  }
}

// The strip of thumbnails. `actions`: select(entry), remove(entry).
export function thumbnail(entry, actions) {
  const preview = el('canvas', {
    'aria-hidden': 'true',
    width: entry.source.thumbnail.width,
    height: entry.source.thumbnail.height
  });
  preview.getContext('2d').drawImage(entry.source.thumbnail, 0, 0);
  return el(
      'li', {class: 'tile-item'},
      el('button', {
        type: 'button',
        class: 'tile',
        'aria-label': entry.source.name,
        title: entry.source.name,
        onclick: () => actions.select(entry)
      },
         preview, el('span', {class: 'badge', 'aria-hidden': 'true'})),
      el('button', {type: 'button', class: 'tile-remove', onclick: () => actions.remove(entry)},
         icon('close')));
}
