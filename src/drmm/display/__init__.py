"""What people look at: text from elsewhere made safe to show, and figures on canvases of their own."""
