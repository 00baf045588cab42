/** Names of saved files: the page fills in dates and other nodes' values, as it does for the host's own saving nodes. */

import { app } from '../../scripts/app.js'

const PREFIX = 'filename_prefix'

/** The prefix with %date:yyyy-MM-dd% and %Node.widget% filled in, or as it is where this page offers no way to do so. */
function filledIn(prefix) {
  // what scripts/utils.js exports, without failing where it does not
  const fillIn = window.comfyAPI?.utils?.applyTextReplacements
  return fillIn ? fillIn(app, prefix) : prefix
}

app.registerExtension({
  name: 'ViewPoint.FileNames',
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith('ViewPoint')) return
    const widget = node.widgets?.find((each) => each.name === PREFIX)
    if (widget) widget.serializeValue = () => filledIn(widget.value)
  },
})
