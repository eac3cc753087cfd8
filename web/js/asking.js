// One request from start to end: upload unless the server has the image, ask, collect what arrives.
import {ApiError, ground, uploadImage} from './api.js';

// Refusals of an upload that mean "no room to keep this image". The page has already checked the
// size of the file, so IMAGE_TOO_MANY_BYTES is about the room as well.
const NO_ROOM = ['IMAGE_STORE_FULL', 'IMAGE_TOO_MANY_BYTES'];
const BUSY_RETRIES = 8;
const BUSY_WAIT_MS = 250;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Moves what was found in a region to the whole image.
function lifted(finding, region) {
  if (!region) return {...finding};
  const [dx, dy] = region;
  const moved = {...finding};
  if (finding.box) moved.box = finding.box.map((value, i) => value + (i % 2 === 0 ? dx : dy));
  if (finding.point) moved.point = [finding.point[0] + dx, finding.point[1] + dy];
  return moved;
}

// The fields that name the image: {image_id}, or {image} where the server has no room to keep it.
async function place(target, turn, signal, changed) {
  if (target.imageId) return {image_id: target.imageId};
  turn.stage = 'uploading';
  turn.uploaded = 0;
  changed();
  const file = await target.file();
  const begin = performance.now();
  const onProgress = (share) => {
    turn.uploaded = share;
    changed();
  };
  try {
    target.imageId = (await uploadImage(file, {name: target.name, onProgress, signal})).image_id;
    turn.uploadMs += performance.now() - begin;
    return {image_id: target.imageId};
  } catch (error) {
    if (!NO_ROOM.includes(error.code)) throw error;
    delete turn.fields.session_id;  // a conversation lives as long as its image is kept
    turn.session = null;
    return {image: file};
  }
}

async function askOnce(target, turn, signal, changed) {
  const image = await place(target, turn, signal, changed);
  turn.stage = 'looking';
  changed();
  return ground({...image, ...turn.fields}, {
    signal,
    onDelta() {
      if (turn.stage === 'answering') return;
      turn.stage = 'answering';
      changed();
    },
    onObject(object) {
      turn.objects.push(lifted({...object, confidence: null}, turn.region));
      changed();
    },
  });
}

// The server forgets images after a while, and a conversation that was just cancelled may be busy
// for a moment: both are retried without telling the user.
async function askPersistently(target, turn, signal, changed) {
  for (let busy = 0, uploaded = false;;) {
    turn.objects = [];
    try {
      return await askOnce(target, turn, signal, changed);
    } catch (error) {
      if (error.code === 'IMAGE_ID_UNKNOWN' && !uploaded) {
        uploaded = true;
        target.imageId = null;
      } else if (error.code === 'SESSION_BUSY' && busy < BUSY_RETRIES) {
        busy += 1;
        await pause(BUSY_WAIT_MS);
      } else {
        throw error;
      }
    }
  }
}

function accept(turn, target, answer) {
  turn.answer = answer;
  turn.objects = answer.objects.map((object) => lifted(object, turn.region));
  for (const {label, objects} of answer.labels ?? [])
    for (const index of objects) turn.objects[index].label = label;  // as it was asked for
  turn.points = (answer.points ?? []).map((point) => lifted(point, turn.region));
  turn.stage = 'done';
  if (answer.image_id) target.imageId = answer.image_id;
}

// Never rejects: what happened is in `turn`. `changed` is called whenever it changes.
export async function ask(entry, turn, changed) {
  const controller = new AbortController();
  turn.cancel = () => controller.abort(new DOMException('cancelled', 'AbortError'));
  turn.fields = turn.mode === 'classes' ? {labels: turn.labels} : {prompt: turn.sentPrompt};
  if (turn.session) turn.fields.session_id = turn.session;
  const target = entry.targetOf(turn.region);
  const begin = performance.now();
  try {
    accept(turn, target, await askPersistently(target, turn, controller.signal, changed));
  } catch (error) {
    turn.stage = error.name === 'AbortError' ? 'cancelled' : 'failed';
    if (turn.stage === 'failed') {
      // A programming error of the page must not look like an answer of the server.
      turn.error = error.code ? error : new ApiError({code: 'PAGE_ERROR', detail: String(error)});
    }
  }
  turn.totalMs = performance.now() - begin;
  changed();
}
