// Which words two texts share, and where units lie in a text.

const CJK = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}";
const LETTER = "[\\p{L}\\p{M}\\p{N}]";
const WORD = new RegExp(`[${CJK}]|${LETTER}+(?:['’-]${LETTER}+)*`, "gu");
const MAX_CELLS = 2e7; // of the table of a comparison; longer texts are not compared

/** The words of a text: {start, end, key}; equal keys are the same word. */
export function words(text) {
  return Array.from(text.matchAll(WORD), (match) => ({
    start: match.index,
    end: match.index + match[0].length,
    key: match[0].toLowerCase(),
  }));
}

/** For the words of two texts, whether each is in their longest common subsequence. */
export function sharedWords(first, second) {
  const shared = [first.map(() => false), second.map(() => false)];
  let begin = 0;
  let [firstEnd, secondEnd] = [first.length, second.length];
  const mark = (i, j) => {
    shared[0][i] = true;
    shared[1][j] = true;
  };
  while (begin < Math.min(firstEnd, secondEnd) && first[begin].key === second[begin].key) {
    mark(begin, begin);
    begin += 1;
  }
  while (Math.min(firstEnd, secondEnd) > begin && first[firstEnd - 1].key === second[secondEnd - 1].key) {
    firstEnd -= 1;
    secondEnd -= 1;
    mark(firstEnd, secondEnd);
  }
  const table = lengths(first.slice(begin, firstEnd), second.slice(begin, secondEnd));
  if (!table) return shared;
  let [i, j] = [begin, begin];
  const length = (a, b) => table[a - begin][b - begin];
  while (i < firstEnd && j < secondEnd) {
    if (first[i].key === second[j].key) {
      mark(i, j);
      i += 1;
      j += 1;
    } else if (length(i + 1, j) >= length(i, j + 1)) {
      i += 1;
    } else {
      j += 1;
    }
  }
  return shared;
}

/** For the words of a text, whether another text has them, in any place and regular inflection. */
export function haveForms(textWords, others) {
  const stems = new Set(others.map((word) => stem(word.key)));
  return textWords.map((word) => stems.has(stem(word.key)));
}

/** A word without its ending, the same of "running" and "runs", "cities" and "city". */
function stem(key) {
  const root = key.replace(/['’]s$/, "").replace(/(?<=\p{L}{3})(?:ies|ied|ing|ed|es|s)$/u, "");
  return root.replace(/(?<=\p{L}{2})[eiy]$/u, "").replace(/(\p{L})\1$/u, "$1");
}

/** Lengths of the longest common subsequences of all ends of two lists of words. */
function lengths(first, second) {
  if (first.length * second.length > MAX_CELLS) return null;
  const table = Array.from({ length: first.length + 1 }, () => new Uint16Array(second.length + 1));
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      const isSame = first[i].key === second[j].key;
      table[i][j] = isSame ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  return table;
}

/** Give the words of each unit the unit's kind in `kinds`, where they have none yet. */
export function markUnits(kinds, textWords, units, kind) {
  for (const unit of units) {
    const keys = words(unit).map((word) => word.key);
    for (let i = 0; keys.length && i + keys.length <= textWords.length; i++) {
      if (keys.every((key, k) => textWords[i + k].key === key && !kinds[i + k])) {
        kinds.fill(kind, i, i + keys.length);
      }
    }
  }
}

/** Show a text in an element, with marks around its words that have a kind. */
export function showMarked(element, text, textWords, kinds) {
  element.replaceChildren();
  let end = 0;
  for (let i = 0; i < textWords.length; i++) {
    if (!kinds[i]) continue;
    element.append(text.slice(end, textWords[i].start));
    let last = i;
    while (kinds[last + 1] === kinds[i]) last += 1;
    const mark = document.createElement("mark");
    mark.className = kinds[i];
    mark.textContent = text.slice(textWords[i].start, textWords[last].end);
    element.append(mark);
    end = textWords[last].end;
    i = last;
  }
  element.append(text.slice(end));
}
