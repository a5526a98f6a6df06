const STORY = {
  shore: {
    text: ['The boat has left. Before you the lighthouse stands dark for the first time in forty years, and the tide is coming in over the causeway.',
      'The wind brings rain from the west. Somewhere above you a shutter beats against the wall, slowly, as if it counted.',
      'You pull your coat closer. There is a door of oak, green with age, and beside it a shed whose roof has fallen in on one side.'],
    choices: [{ label: 'Try the door', to: 'door' }, { label: 'Look into the shed', to: 'shed' }, { label: 'Walk along the rocks', to: 'rocks' }],
  },
  door: {
    text: ['The door is locked. The keyhole is bright: it has been used this week.', 'You knock. Nothing answers but the shutter.'],
    choices: [{ label: 'Use the key', to: 'hall', needs: 'key' }, { label: 'Look into the shed', to: 'shed' }, { label: 'Back to the shore', to: 'rocks' }],
  },
  shed: {
    gives: 'lamp',
    text: ['Ropes, nets, a broken oar. On a nail hangs a storm lamp that is still half full. You take it.', 'On the dust of the bench there is the print of a hand, smaller than yours.'],
    choices: [{ label: 'Walk along the rocks with the lamp', to: 'rocks' }, { label: 'Try the door', to: 'door' }],
  },
  rocks: {
    text: ['The rocks are slippery with weed. Between two of them, where the light falls, something made of brass has been caught.'],
    choices: [{ label: 'Light the lamp and look closer', to: 'key', needs: 'lamp' }, { label: 'Back to the door', to: 'door' }, { label: 'Look into the shed', to: 'shed' }],
  },
  key: {
    gives: 'key',
    text: ['It is a key, on a ribbon that was once red. You have to lie down on the wet stone to reach it.', 'When you stand up again the causeway is gone.'],
    choices: [{ label: 'To the door', to: 'door' }],
  },
  hall: {
    text: ['The lock turns without a sound. Stairs wind upwards; each has been swept.', 'At the top, by the cold lamp, a girl sits with a book on her knees. "You are late," she says. "Will you help me to light it?"'],
    choices: [{ label: 'Light the great lamp (the end)', to: 'end' }, { label: 'Ask who she is', to: 'who' }],
  },
  who: {
    text: ['"I keep it," she says, "when there is no keeper."'],
    choices: [{ label: 'Light the great lamp (the end)', to: 'end' }],
  },
  end: {
    text: ['The beam goes out over the water, and far away a ship turns. When you look round you are alone, and the book on the chair is the log of the lighthouse, with your name on the last line.'],
    choices: [{ label: 'Begin again', to: 'shore' }],
  },
};
