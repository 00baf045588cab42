/** Files for "load clip": the page's own upload button offers WebM and MP4 alone, and the node reads what phones record. */

import { app } from '../../scripts/app.js'

const NODE = 'ViewPointLoadClip'
/** What the node reads, as viewpoint_core/video.py lists it. */
export const SUFFIXES = ['.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi']
const picker = Object.assign(document.createElement('input'), { type: 'file', accept: ['video/*', ...SUFFIXES].join() })

const isVideo = (file) => file.type.startsWith('video/')
const isUnknownVideo = (file) => !isVideo(file) && SUFFIXES.some((suffix) => file.name.toLowerCase().endsWith(suffix))

/** The page takes videos by their type, which not every browser knows of .mkv and .avi. */
function asVideo(file) {
  return isUnknownVideo(file) ? new File([file], file.name, { type: 'video/mp4', lastModified: file.lastModified }) : file
}

/** Let the user choose a file; the page uploads, selects and shows it. */
function pick(node) {
  picker.value = '' // else the same file again would change nothing
  picker.onchange = () => node.pasteFiles?.(Array.from(picker.files, asVideo))
  picker.click()
}

app.registerExtension({
  name: 'ViewPoint.ClipUpload',
  nodeCreated(node) {
    if (node.comfyClass !== NODE || !node.pasteFiles) return // another page than this was made for: its own way stays
    const button = node.widgets?.find((widget) => widget.type === 'button' && widget.name === 'upload')
    if (button) button.callback = () => pick(node)
    const { onDragDrop } = node
    node.onDragDrop = function (event) {
      const files = Array.from(event.dataTransfer?.files ?? [])
      if (!files.some(isUnknownVideo)) return onDragDrop?.apply(this, arguments)
      node.pasteFiles(files.map(asVideo))
      return true
    }
  },
})
